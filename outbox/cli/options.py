"""Options that several commands share, and the settings made of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from outbox.cli.invocation import Invocation
from outbox.config.host import NO_HOST, HostSettings
from outbox.config.keys import BY_NAME
from outbox.config.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Command = TypeVar("Command", bound="Callable[..., Any]")

_HELP = {
    "database_url": "Where the database is: a SQLAlchemy or libpq URL, or libpq's key=value form.",
    "database_password_callback": "A Python function that gives the password, as module:function.",
    "schema": "The schema of the tables. Default: the search path.",
    "table_prefix": "What the names of the tables begin with.",
    "name": "The relay name, which owns a cursor.",
    "delivery": "How to publish: at-least-once or exactly-once.",
    "poll_interval": "Seconds between looks at an idle log, at the most.",
    "wake_up": "How a relay with nothing to do finds messages: poll, or notify as well.",
    "lease": "Seconds after which another process stands in for one that died.",
    "max_messages_per_second": "Messages a second that this process sends at the most.",
    "max_bytes_per_second": "Bytes of payloads a second that this process sends at the most.",
    "connect_timeout": "Seconds after which a server that is away is given up.",
    "cloudevents": "Make messages CloudEvents: binary or structured.",
    "cloudevents_source": "Whose events they are: a URI reference such as /shop/orders.",
    "drain_timeout": "Seconds to wait for acknowledgements when told to stop.",
    "http_host": "The address for health and metrics to listen on.",
    "http_port": "The port for health and metrics; 0 takes any free one. Default: none at all.",
    "stall_timeout": "Seconds without a turn of its loop after which a relay is not alive.",
}


class SettingOption(click.Option):
    """An option whose variable is shown in the help, and read where the source can be kept."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:  # noqa: ARG002 - click's signature
        """Leave the environment to `outbox.config.settings`."""
        return None


class Duration(click.ParamType[int]):
    """A length of time such as 90, 90s, 30m, 12h or 7d, as whole seconds."""

    name = "time"
    _UNITS: ClassVar[Mapping[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return seconds."""
        found = re.fullmatch(r"(\d{1,9})([smhd]?)", str(value))
        if not found:
            self.fail(f"{value!r} is not a length of time: write 90s, 30m, 12h or 7d", param, ctx)
        return int(found[1]) * self._UNITS[found[2]]


def setting(name: str) -> Callable[[Command], Command]:
    """Return the option of one setting."""
    key = BY_NAME[name]
    default = "" if key.default in (None, "") else f"  [default: {key.default}]"
    return click.option(
        key.flag,
        name,
        cls=SettingOption,
        envvar=key.variable,
        show_envvar=True,
        metavar=_metavar(name),
        help=_HELP[name] + default,
    )


def _metavar(name: str) -> str:
    if name in ("poll_interval", "lease", "connect_timeout", "drain_timeout", "stall_timeout"):
        return "SECONDS"
    if name in ("max_messages_per_second", "max_bytes_per_second"):
        return "NUMBER"
    return {"database_url": "URL", "http_port": "PORT", "wake_up": "poll|notify"}.get(name, "TEXT")


config_option = click.option(
    "--config",
    metavar="FILE",
    help="A TOML file to use instead of outbox.toml in the current directory.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

kafka_option = click.option(
    "-X",
    "kafka",
    multiple=True,
    metavar="PROPERTY=VALUE",
    help="A property of librdkafka, such as bootstrap.servers=HOST:PORT. Repeatable.  "
    "[env var: OUTBOX_KAFKA_BOOTSTRAP_SERVERS, …: dots as underscores]",
)

_log_format = click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="How to write the log, on stderr.",
)

_log_level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to write into it.",
)


def log_options(command: Command) -> Command:
    """Add the options of a command that runs on and says what it does."""
    for option in (_log_level, _log_format):
        command = option(command)
    return command


def database_options(command: Command) -> Command:
    """Add the options that say where the tables are."""
    names = ("database_url", "database_password_callback", "schema", "table_prefix")
    for option in [config_option, *map(setting, reversed((*names, "connect_timeout")))]:
        command = option(command)
    return command


def settings_from(flags: dict[str, object]) -> Settings:
    """Return the settings of a command: its flags, and what its surroundings say."""
    return load(flags, os.environ, Path.cwd(), host_of(click.get_current_context()))


def host_of(context: click.Context) -> HostSettings:
    """Return the settings of the framework that runs the command, if one does."""
    invocation = context.find_object(Invocation)
    return NO_HOST if invocation is None else invocation.host


def reworded(advice: str) -> str:
    """Return advice with commands as whoever runs this one calls them."""
    return host_of(click.get_current_context()).reword(advice)
