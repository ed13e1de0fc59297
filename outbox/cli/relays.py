"""outbox-relay relays"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import print_json, say
from outbox.cli.times import Moment
from outbox.cli.waiting import connected_store

if TYPE_CHECKING:
    from outbox.store.base import StoreAdmin

EPILOG = """\b
Examples:
  outbox-relay relays list
  outbox-relay relays create audit --from latest
  outbox-relay relays create copy --from 2h
  outbox-relay relays forget audit --yes
  outbox-relay relays rebind default"""


class Beginning(Moment):
    """Where a relay name begins: `earliest`, `latest`, or a moment."""

    name = "earliest|latest|time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the word, or an aware datetime."""
        return value if value in ("earliest", "latest") else super().convert(value, param, ctx)


@click.group(epilog=EPILOG)
def relays() -> None:
    """Make, list and drop relay names. Each owns a cursor over the log."""


@relays.command(epilog="\b\nExample:\n  outbox-relay relays create audit --from latest")
@click.argument("name")
@click.option(
    "--from",
    "start",
    type=Beginning(),
    required=True,
    metavar="earliest|latest|TIME",
    help="Begin at the first retained message, after the last one, or with what was written at a"
    " time (2026-11-21T09:30:00Z, or 2h for two hours ago).",
)
@database_options
def create(*, name: str, start: Literal["earliest", "latest"] | datetime, **flags: object) -> None:
    """Make the relay name NAME.

    From a time, everything that was written then or later is delivered, and perhaps a few messages
    of just before. The log is looked through once to find where that is.
    """
    with connected_store(settings_from(flags)) as store:
        store.create_relay(name, start)
    whence = f"{start.isoformat()} on" if isinstance(start, datetime) else f"the {start} message"
    say(f"created relay {name}, from {whence}")


@relays.command("list", epilog="\b\nExample:\n  outbox-relay relays list --json")
@json_option
@database_options
def list_relays(*, as_json: bool, **flags: object) -> None:
    """Print the relay names."""
    with connected_store(settings_from(flags)) as store:
        names = store.relays()
    if as_json:
        print_json("outbox.relays/1", relays=names)
        return
    for name in names:
        click.echo(name)


@relays.command(epilog="\b\nExample:\n  outbox-relay relays forget audit --yes")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_options
def forget(*, name: str, yes: bool, **flags: object) -> None:
    """Drop the relay name NAME and its progress; the messages stay."""
    with connected_store(settings_from(flags)) as store:
        if not yes:
            click.confirm(_question(store, name), abort=True, err=True)
        store.forget_relay(name)
    say(f"forgot relay {name}")


def _question(store: StoreAdmin, name: str) -> str:
    lanes = store.status(name)
    waiting = sum(lane.lag_messages for lane in lanes)
    running = "A process of it is running. " if any(lane.owner for lane in lanes) else ""
    return (
        f"{running}Relay {name} has {waiting} messages to deliver; nobody will deliver them. "
        "Forget it?"
    )


@relays.command(epilog="\b\nExample:\n  outbox-relay relays rebind default")
@click.argument("name")
@database_options
def rebind(*, name: str, **flags: object) -> None:
    """Let NAME publish to another Kafka cluster from now on."""
    with connected_store(settings_from(flags)) as store:
        store.rebind_relay(name)
    say(f"relay {name} takes the next Kafka cluster it meets for its own")
