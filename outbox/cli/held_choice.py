"""How held messages are named on the command line."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from outbox.errors import ConfigurationError
from outbox.store.base import unknown_relay
from outbox.store.held import STATES

if TYPE_CHECKING:
    from outbox.store.base import StoreAdmin
    from outbox.store.held import HeldAdmin

Command = TypeVar("Command", bound="Callable[..., Any]")

relay_option = click.option(
    "--name",
    "relay",
    metavar="NAME",
    default="default",
    show_default=True,
    help="The relay name whose messages they are.",
)


def filter_options(command: Command) -> Command:
    """Take what `HeldFilter` can say."""
    for option in (
        click.option("--id", "id_", metavar="UUID", help="The message with this id."),
        click.option("--key", metavar="KEY", help="Messages of this key."),
        click.option("--topic", metavar="TOPIC", help="Messages of this topic."),
        click.option(
            "--state", "states", type=click.Choice(STATES), multiple=True, help="Repeatable."
        ),
        relay_option,
    ):
        command = option(command)
    return command


def held_admin(store: StoreAdmin, relay: str) -> HeldAdmin:
    """Return what the command works with. Raises ConfigurationError for an unknown relay name."""
    if relay not in store.relays():
        raise ConfigurationError(unknown_relay(relay))
    return store.held_admin()


def checked_id(text: str) -> str:
    """Return an id as it is stored, or raise UsageError."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not a message's id, which is a UUID") from error
