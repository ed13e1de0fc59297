"""outbox-relay scheduled"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from outbox.cli.operating import new_action
from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import print_json, print_table, say
from outbox.cli.times import Moment, shown
from outbox.cli.waiting import connected_store
from outbox.store.scheduling import ScheduleFilter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from outbox.store.scheduling import ScheduleAdmin, ScheduledMessage, WaitingState

Command = TypeVar("Command", bound="Callable[..., Any]")

SCHEMA = "outbox.scheduled/1"

#: So many messages are changed in one transaction.
_BATCH = 1_000

#: Above this a question says "more than".
_MOST_COUNTED = 100_000

EPILOG = """\b
Examples:
  outbox-relay scheduled list --topic orders
  outbox-relay scheduled cancel --id 0190163d-8694-739b-aea5-966c26f8ad90
  outbox-relay scheduled cancel --topic reminders --key ada --all-matching
  outbox-relay scheduled release --condition payment-42"""


@click.group(epilog=EPILOG)
def scheduled() -> None:
    """List, cancel and release messages that wait for a time or a condition."""


def filter_options(command: Command) -> Command:
    """Add the options that say which messages are meant."""
    for option in (
        click.option(
            "--due-before", type=Moment(), metavar="TIME", help="Those that are due before."
        ),
        click.option("--condition", metavar="NAME", help="Those that wait for this condition."),
        click.option("--id", "message_id", type=click.UUID, metavar="UUID", help="This message."),
        click.option("--key", metavar="KEY", help="Those with this key."),
        click.option("--topic", metavar="TOPIC", help="Those of this topic."),
    ):
        command = option(command)
    return command


def change_options(command: Command) -> Command:
    """Add the options of a command that changes messages."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Say how many match; change nothing."),
        click.option(
            "--all-matching", is_flag=True, help="All that match, or all, without a filter."
        ),
    ):
        command = option(command)
    return command


@scheduled.command("list", epilog="\b\nExample:\n  outbox-relay scheduled list --topic orders")
@click.option(
    "--state",
    type=click.Choice(["scheduled", "waiting"]),
    help="Those that wait for a time alone, or for a condition.",
)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many."
)
@filter_options
@json_option
@database_options
def list_scheduled(*, limit: int, state: WaitingState | None, as_json: bool, **flags: Any) -> None:
    """Print what waits, the first due first."""
    which = replace(_filter(flags), state=state)
    with connected_store(settings_from(flags)) as store:
        found = store.schedule().find(which, limit + 1)
    more, found = len(found) > limit, found[:limit]
    if as_json:
        print_json(SCHEMA, messages=[_document(message) for message in found], more=more)
        return
    print_table(
        ("DUE", "WAITS FOR", "TOPIC", "KEY", "TYPE", "ID"), [_row(message) for message in found]
    )
    if more:
        say(f"these are the first {limit}; give --limit, or a filter, for others")


def _document(message: ScheduledMessage) -> dict[str, object]:
    times = {"due_at": shown(message.due_at), "created_at": shown(message.created_at)}
    return {name: value for name, value in asdict(message).items() if name != "no"} | times


def _row(message: ScheduledMessage) -> tuple[str, ...]:
    columns = (
        shown(message.due_at),
        message.wait_for,
        message.topic,
        message.key,
        message.type,
        message.id,
    )
    return tuple("-" if value is None else value for value in columns)


@scheduled.command(
    epilog="\b\nExample:\n  outbox-relay scheduled cancel --topic orders --key ada --all-matching"
)
@filter_options
@change_options
@json_option
@database_options
def cancel(**flags: Any) -> None:
    """Delete messages that wait: they are never sent.

    One by its --id, or those that match with --all-matching. Says how many and asks first.
    """
    which = _filter(flags)
    _require_intent(flags, decisive=("message_id",))
    _change("cancel", which, flags)


@scheduled.command(
    epilog="\b\nExample:\n  outbox-relay scheduled release --condition payment-42 --yes"
)
@filter_options
@change_options
@json_option
@database_options
def release(**flags: Any) -> None:
    """Let messages go that wait for a condition, as if it had been released.

    Those of a --condition, one by its --id, or those that match with --all-matching. Says how many
    and asks first. What has a time as well still waits for that.
    """
    which = replace(_filter(flags), state="waiting")
    _require_intent(flags, decisive=("message_id", "condition"))
    _change("release", which, flags)


def _filter(flags: dict[str, Any]) -> ScheduleFilter:
    due_before: datetime | None = flags.pop("due_before")
    message_id = flags["message_id"]
    return ScheduleFilter(
        topic=flags.pop("topic"),
        key=flags.pop("key"),
        id=None if message_id is None else str(message_id),
        condition=flags["condition"],
        due_before=None if due_before is None else due_before.timestamp(),
    )


def _require_intent(flags: dict[str, Any], decisive: tuple[str, ...]) -> None:
    """Refuse to change messages that nobody named."""
    named = any(flags.pop(name) is not None for name in decisive)
    flags.pop("condition", None)
    flags.pop("message_id", None)
    if not flags.pop("all_matching") and not named:
        options = " or ".join("--id" if name == "message_id" else f"--{name}" for name in decisive)
        raise click.UsageError(f"say {options}, or --all-matching for all that match the filters")


def _change(verb: str, which: ScheduleFilter, flags: dict[str, Any]) -> None:
    yes, dry_run, as_json = flags.pop("yes"), flags.pop("dry_run"), flags.pop("as_json")
    action = new_action(f"scheduled {verb}", which.given)
    with connected_store(settings_from(flags)) as store:
        admin = store.schedule()
        matching = admin.count(which, _MOST_COUNTED + 1)
        changed = 0
        if matching and not dry_run:
            if not yes:
                click.confirm(
                    f"{_counted(matching)} match. {_QUESTION[verb]}", abort=True, err=True
                )
            changed = _in_batches(admin, verb, which, action)
    if as_json:
        print_json(SCHEMA, action=verb, dry_run=dry_run, matching=matching, changed=changed)
        return
    done = f"{_counted(matching)} match" if dry_run else f"{_DONE[verb]} {_counted(changed)}"
    say(done)


_QUESTION = {"cancel": "They will never be sent. Cancel them?", "release": "Release them?"}
_DONE = {"cancel": "cancelled", "release": "released"}


def _in_batches(admin: ScheduleAdmin, verb: str, which: ScheduleFilter, action: Any) -> int:
    change = admin.cancel if verb == "cancel" else admin.release
    total = 0
    while changed := change(which, _BATCH, action):
        total += changed
    return total


def _counted(count: int) -> str:
    if count > _MOST_COUNTED:
        return f"more than {_MOST_COUNTED:,} messages"
    return f"{count:,} message{'' if count == 1 else 's'}"
