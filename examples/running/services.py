"""The two services: their processes and what has to be done before these start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from examples.running.processes import Plan
from examples.running.setup import Setup

EXAMPLES = Path(__file__).resolve().parents[1]

#: A WSGI server in plain Python that needs no configuration, is meant for production, and is one
#: process: the development servers of both frameworks are two, and say so on every page.
WAITRESS = ("python", "-m", "waitress")

#: The relay knows nothing of the application beside it, as in a sidecar. Either application could
#: run it too, with its own settings: `manage.py outbox_relay`, `flask --app billing outbox run`.
RELAY = ("outbox-relay", "run")


@dataclass(frozen=True)
class Service:
    """A service as its README describes it; all commands run in its directory."""

    name: str
    directory: Path
    prepare: tuple[tuple[str, ...], ...]
    wsgi: str
    consumer: tuple[str, ...]

    def web(self, host: str, port: int) -> tuple[str, ...]:
        """Return the command that serves its pages."""
        return (*WAITRESS, f"--listen={host}:{port}", self.wsgi)


SHOP = Service(
    name="shop",
    directory=EXAMPLES / "django_app",
    prepare=(("python", "manage.py", "migrate"), ("python", "manage.py", "let_me_in")),
    wsgi="shop.wsgi:application",
    consumer=(
        *("python", "manage.py", "outbox_consume", "orders.invoices.take_answer"),
        *("--topic", "invoices", "--consumer", "shop"),
    ),
)
BILLING = Service(
    name="billing",
    directory=EXAMPLES / "flask_app",
    prepare=(("flask", "--app", "billing", "init-db"),),
    wsgi="billing.wsgi:app",
    consumer=("flask", "--app", "billing", "consume"),
)


@dataclass(frozen=True)
class Surroundings:
    """Where everything is: what both services are told by their environment."""

    setup: Setup
    directory: Path
    kafka: str
    otlp_endpoint: str
    traces_url: str
    admin_password: str

    @property
    def shop_url(self) -> str:
        """The shop's first page."""
        return f"http://127.0.0.1:{self.setup.shop_port}"

    @property
    def billing_url(self) -> str:
        """Billing's first page."""
        return f"http://127.0.0.1:{self.setup.billing_port}"

    @property
    def relay_pid_file(self) -> Path:
        """Where the process id of the shop's relay is kept."""
        return self.directory / "shop-relay.pid"

    def variables(self, service: Service) -> dict[str, str]:
        """Return the environment of a service's processes."""
        common = {
            "DATABASE_URL": self._database(service),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "SHOP_URL": self.shop_url,
            "SHOP_PORT": str(self.setup.shop_port),
            "BILLING_URL": self.billing_url,
            "BILLING_PORT": str(self.setup.billing_port),
            "TRACES_URL": self.traces_url,
            **_tracing(self.otlp_endpoint),
        }
        return common | (self._for_the_shop() if service is SHOP else {})

    def relay_variables(self, service: Service) -> dict[str, str]:
        """Return the environment of a service's relay."""
        return {
            "OUTBOX_DATABASE_URL": self._database(service),
            "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            **_tracing(self.otlp_endpoint),
        }

    def _database(self, service: Service) -> str:
        setup = self.setup
        given = setup.shop_database if service is SHOP else setup.billing_database
        return given or f"sqlite:///{self.directory / service.name}.db"

    def _for_the_shop(self) -> dict[str, str]:
        killable = {"SHOP_RELAY_PID_FILE": str(self.relay_pid_file)}
        return {
            "SHOP_ADMIN_PASSWORD": self.admin_password,
            **(killable if self.setup.let_relay_be_killed else {}),
        }


def preparations(around: Surroundings) -> Iterator[list[Plan]]:
    """Yield what has to be done before the processes start: in order, each list at once."""
    for commands in zip_longest(SHOP.prepare, BILLING.prepare):
        yield [
            _plan(f"{service.name} prepare", service, command, around)
            for service, command in zip((SHOP, BILLING), commands, strict=True)
            if command is not None
        ]
    if around.setup.has_another_kafka_every_time:
        rebind = ("outbox-relay", "relays", "rebind", "default")
        yield [_relay(service, "prepare", rebind, around) for service in (SHOP, BILLING)]


def processes(around: Surroundings) -> Iterator[Plan]:
    """Yield what has to run."""
    for service, port in (
        (SHOP, around.setup.shop_port),
        (BILLING, around.setup.billing_port),
    ):
        web = service.web("127.0.0.1", port)
        yield _plan(f"{service.name} web", service, web, around, vital=True)
        yield _plan(f"{service.name} consumer", service, service.consumer, around)
        yield _relay(service, "relay", RELAY, around)


def _relay(service: Service, name: str, command: tuple[str, ...], around: Surroundings) -> Plan:
    return Plan(
        name=f"{service.name} {name}",
        command=_here(command),
        directory=around.directory,
        variables={
            **around.relay_variables(service),
            "OTEL_SERVICE_NAME": f"{service.name}-{name}",
        },
        pid_file=around.relay_pid_file if command == RELAY and service is SHOP else None,
    )


def _plan(
    name: str,
    service: Service,
    command: tuple[str, ...],
    around: Surroundings,
    *,
    vital: bool = False,
) -> Plan:
    return Plan(
        name=name,
        command=_here(command),
        directory=service.directory,
        variables={**around.variables(service), "OTEL_SERVICE_NAME": name.replace(" ", "-")},
        vital=vital,
    )


def _tracing(endpoint: str) -> dict[str, str]:
    # Spans leave after half a second instead of five, for those who watch.
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "500"}


def _here(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command for this interpreter, also where its scripts are not on the PATH."""
    program, *arguments = command
    modules = {"python": (), "flask": ("-m", "flask"), "outbox-relay": ("-m", "outbox.cli.main")}
    return (sys.executable, *modules[program], *arguments)
