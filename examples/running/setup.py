"""What is to be started, as told by arguments and environment."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_DESCRIPTION = """\
Start the shop (Django) and the billing service (Flask), each with its web server, its consumer
and its relay. Without settings everything is embedded: SQLite, and a Kafka within this command
(librdkafka's mock cluster). Ctrl-C stops all of it."""

_EPILOG = """\
environment:
  DATABASE_URL_SHOP, DATABASE_URL_BILLING   postgresql://… instead of SQLite
  KAFKA_BOOTSTRAP_SERVERS                   a real Kafka; the topics are made if they are missing
  SHOP_PORT, BILLING_PORT                   where to listen on 127.0.0.1 (8001, 8002)
  OTEL_EXPORTER_OTLP_ENDPOINT, TRACES_URL   where spans go and where they can be read (Jaeger);
                                            without them they are kept here
"""


class SetupError(Exception):
    """It cannot be started like this; the sentence says why."""


@dataclass(frozen=True)
class Setup:
    """What is to be started. Empty text: embedded."""

    directory: Path | None
    shop_port: int
    billing_port: int
    shop_database: str
    billing_database: str
    kafka: str
    otlp_endpoint: str
    traces_url: str
    let_relay_be_killed: bool

    @property
    def has_another_kafka_every_time(self) -> bool:
        """Whether a relay may find a Kafka that is not the one its database remembers."""
        kept = self.directory or self.shop_database or self.billing_database
        return not self.kafka and bool(kept)


def read_setup(arguments: Sequence[str], variables: Mapping[str, str]) -> Setup:
    """Return what is asked for. Raises SetupError, and SystemExit for `--help` and wrong usage."""
    given = _parser().parse_args(arguments)
    setup = Setup(
        directory=given.directory,
        shop_port=_port("SHOP_PORT", variables.get("SHOP_PORT") or "8001"),
        billing_port=_port("BILLING_PORT", variables.get("BILLING_PORT") or "8002"),
        shop_database=variables.get("DATABASE_URL_SHOP", ""),
        billing_database=variables.get("DATABASE_URL_BILLING", ""),
        kafka=variables.get("KAFKA_BOOTSTRAP_SERVERS", ""),
        otlp_endpoint=variables.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        traces_url=variables.get("TRACES_URL", ""),
        let_relay_be_killed=not given.no_killing,
    )
    for name in ("DATABASE_URL_SHOP", "DATABASE_URL_BILLING"):
        _check_database(name, variables.get(name, ""))
    if setup.shop_port == setup.billing_port:
        raise SetupError(f"SHOP_PORT and BILLING_PORT are both {setup.shop_port}: choose two")
    if setup.shop_database and setup.shop_database == setup.billing_database:
        raise SetupError(
            "DATABASE_URL_SHOP and DATABASE_URL_BILLING are the same: each service needs a "
            "database of its own"
        )
    return setup


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="examples/run",
        description=_DESCRIPTION,
        epilog=textwrap.dedent(_EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="keep the SQLite files here. Messages that are in the embedded Kafka when it stops "
        "are gone all the same",
    )
    parser.add_argument(
        "--no-killing",
        action="store_true",
        help="do not let the shop's page kill its relay",
    )
    return parser


def _check_database(name: str, url: str) -> None:
    scheme = url.partition("://")[0]
    if url and scheme.partition("+")[0] not in ("postgresql", "postgres", "sqlite"):
        raise SetupError(f"{name} begins with {scheme!r}: use postgresql://HOST/NAME")


def _port(name: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise SetupError(f"{name}={value!r} is not a port: use a number from 1 to 65535")
    return int(value)
