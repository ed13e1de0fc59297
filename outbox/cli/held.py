"""outbox-relay held"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from outbox.cli.held_choice import Command, checked_id, filter_options, held_admin, relay_option
from outbox.cli.held_edit import edit
from outbox.cli.operating import new_action
from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import duration, print_json, print_table, say
from outbox.cli.waiting import connected_store
from outbox.store.held import HELD_COUNT_LIMIT, STATES, HeldFilter, State

if TYPE_CHECKING:
    from outbox.store.held import HeldAdmin, HeldMessage

#: So many messages are changed in one short transaction.
_BATCH = 500

#: It is said how far it is after so many.
_WORDS_EVERY = 5_000

EPILOG = """\b
Examples:
  outbox-relay held list --state dead
  outbox-relay held show 018f3f1e-0000-7000-8000-000000000001
  outbox-relay held requeue --topic payments --all-matching
  outbox-relay held discard --id 018f3f1e-0000-7000-8000-000000000001"""


@click.group(epilog=EPILOG)
def held() -> None:
    """Look after messages that cannot be sent: retrying, blocked behind another, or dead."""


held.add_command(edit)


def _change_options(command: Command) -> Command:
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Say how many there are; change nothing."),
        click.option("--all-matching", is_flag=True, help="All that the filters let through."),
        filter_options,
    ):
        command = option(command)
    return command


@held.command("list", epilog="\b\nExample:\n  outbox-relay held list --state dead --topic payments")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many at the most.",
)
@click.option("--after", type=int, default=0, help="Go on behind this position.")
@json_option
@database_options
def list_held(
    *,
    relay: str,
    states: tuple[State, ...],
    topic: str | None,
    key: str | None,
    id_: str | None,
    limit: int,
    after: int,
    as_json: bool,
    **flags: object,
) -> None:
    """Print held messages in the order of their positions, and how many there are."""
    which = HeldFilter(relay, states or STATES, topic, key, id_)
    with connected_store(settings_from(flags)) as store:
        admin = held_admin(store, relay)
        counts, found = admin.counts(relay), admin.find(which, limit, after)
    if as_json:
        print_json("outbox.held/1", counts=counts, messages=[asdict(one) for one in found])
        return
    header = ("POSITION", "STATE", "TOPIC", "KEY", "ID", "TRIES", "NEXT", "HELD", "WHY")
    print_table(header, [_row(message) for message in found])
    say(", ".join(f"{_counted(count)} {state}" for state, count in counts.items()))
    if len(found) == limit:
        say(f"there may be more: --after {found[-1].seq}")


def _row(message: HeldMessage) -> tuple[object, ...]:
    due = message.next_attempt_seconds
    return (
        message.seq,
        message.state,
        message.topic,
        "-" if message.key is None else message.key,
        message.id,
        message.attempts,
        "-" if due is None else duration(max(due, 0.0)),
        duration(max(message.held_seconds, 0.0)),
        message.error or "-",
    )


def _counted(count: int) -> str:
    return f"{HELD_COUNT_LIMIT} or more" if count > HELD_COUNT_LIMIT else str(count)


@held.command(epilog="\b\nExample:\n  outbox-relay held show 018f3f1e-0000-7000-8000-000000000001")
@click.argument("id_", metavar="UUID")
@relay_option
@click.option("--payload", is_flag=True, help="Print the payload as well.")
@json_option
@database_options
def show(*, id_: str, relay: str, payload: bool, as_json: bool, **flags: object) -> None:
    """Print all there is to know of a held message."""
    with connected_store(settings_from(flags)) as store:
        admin = held_admin(store, relay)
        found = admin.find(HeldFilter(relay, id=checked_id(id_)), 10)
        records = [admin.content(relay, message.seq) for message in found]
    if not found:
        raise click.ClickException(f"relay {relay} holds no message {id_}")
    shown = []
    for message, record in zip(found, records, strict=True):
        told = asdict(message)
        if record is not None:
            told |= {"content_type": record.content_type, "headers": record.headers}
            if payload:
                told["payload"] = (record.payload or b"").decode("utf-8", "backslashreplace")
        shown.append(told)
    if as_json:
        print_json("outbox.held.message/1", messages=shown)
        return
    for told in shown:
        print_table(("FIELD", "VALUE"), [(name, value) for name, value in told.items()])


@held.command(epilog="\b\nExample:\n  outbox-relay held requeue --state dead --all-matching")
@_change_options
@json_option
@database_options
def requeue(**given: Any) -> None:
    """Try messages again at once, as if for the first time: the dead, and those that retry.

    What is blocked needs no requeueing: it goes when the message before it has gone.
    """
    _change("requeue", "requeued", given)


@held.command(epilog="\b\nExample:\n  outbox-relay held discard --topic test --all-matching --yes")
@_change_options
@json_option
@database_options
def discard(**given: Any) -> None:
    """Delete messages for good; they are never sent. What they block goes on."""
    _change("discard", "discarded", given)


def _change(verb: str, done: str, given: dict[str, Any]) -> None:
    names = ("relay", "states", "topic", "key", "id_", "all_matching", "dry_run", "yes", "as_json")
    own = {name: given.pop(name) for name in names}
    which = _which(verb, own)
    with connected_store(settings_from(given)) as store:
        admin = held_admin(store, which.relay)
        count = admin.count(which, 10 * HELD_COUNT_LIMIT)
        if not own["dry_run"] and count and not own["yes"]:
            about = "at least " if count == 10 * HELD_COUNT_LIMIT else ""
            click.confirm(f"{verb} {about}{_messages(count)}?", abort=True, err=True)
        changed = 0 if own["dry_run"] else _in_batches(admin, verb, which, count)
    if own["as_json"]:
        print_json(f"outbox.held.{verb}/1", matching=count, changed=changed)
    elif own["dry_run"]:
        say(f"{_messages(count)} would be {done}")
    else:
        say(f"{_messages(changed)} {done}")


def _which(verb: str, own: dict[str, Any]) -> HeldFilter:
    """Return what is meant. Without an id it must be said that all that match are."""
    if own["id_"] is None and not (own["all_matching"] or own["dry_run"]):
        raise click.UsageError("name a message with --id, or say --all-matching")
    states = own["states"] or STATES
    if verb == "requeue":
        states = tuple(state for state in states if state != "blocked")
    id_ = None if own["id_"] is None else checked_id(own["id_"])
    return HeldFilter(own["relay"], states, own["topic"], own["key"], id_)


def _in_batches(admin: HeldAdmin, verb: str, which: HeldFilter, count: int) -> int:
    what = {name: value for name, value in asdict(which).items() if value is not None}
    action = new_action(f"held {verb}", what)
    changed, mark = 0, None
    while True:
        if verb == "requeue":
            number, mark = admin.requeue(which, _BATCH, action, mark or 0)
        else:
            number, mark = admin.discard(which, _BATCH, action, mark)
        changed += number
        if mark is None:
            return changed
        if changed % _WORDS_EVERY == 0:
            say(f"{changed} of {max(count, changed)}")


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
