"""outbox-relay pause, resume and paused"""

from __future__ import annotations

from dataclasses import asdict, astuple
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from outbox.cli.operating import new_action
from outbox.cli.options import database_options, json_option, settings_from
from outbox.cli.output import duration, print_json, print_table, say
from outbox.cli.waiting import connected_store
from outbox.errors import ConfigurationError
from outbox.store.base import unknown_relay
from outbox.store.pauses import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.cli.options import Command
    from outbox.store.base import StoreAdmin
    from outbox.store.pauses import Pause


def _target_options(command: Command) -> Command:
    for option in (
        click.option("--topic", metavar="TOPIC", help="One topic only; the others flow."),
        click.option("--all", "everything", is_flag=True, help="All relay names and lanes."),
        click.option("--lane", metavar="LANE", help="One lane only."),
        click.option("--name", "relay", metavar="NAME", help="One relay name only."),
    ):
        command = option(command)
    return command


_PAUSE_EPILOG = """\b
Examples:
  outbox-relay pause --lane bulk --reason "the consumer is being repaired"
  outbox-relay pause --name audit
  outbox-relay pause --topic orders --name default
  outbox-relay pause --all"""


@click.command(epilog=_PAUSE_EPILOG)
@_target_options
@click.option("--reason", metavar="TEXT", help="Why; shown to who asks what is paused.")
@database_options
def pause(
    *,
    relay: str | None,
    lane: str | None,
    topic: str | None,
    everything: bool,
    reason: str | None,
    **flags: object,
) -> None:
    """Let relays send nothing of a lane, a topic, a relay name, or at all, until it is resumed.

    What is on its way arrives. Messages can be written as before, and wait: of a lane or a relay
    name in the log, of a topic among the held messages, so that other topics flow. Relays that run
    take notice within about a second; they keep their lanes and stay ready.
    """
    target = _target(relay, lane, topic, everything=everything)
    with connected_store(settings_from(flags)) as store:
        _refuse_unknown(store, target)
        action = new_action("pause", _what(target, reason))
        done = store.pauses().pause(target, reason, action)
    say(f"paused: {target}" if done else f"paused already: {target}")


_RESUME_EPILOG = """\b
Examples:
  outbox-relay resume --lane bulk
  outbox-relay resume --all"""


@click.command(epilog=_RESUME_EPILOG)
@_target_options
@database_options
def resume(
    *, relay: str | None, lane: str | None, topic: str | None, everything: bool, **flags: object
) -> None:
    """Let go what was paused; what waits is sent in order.

    Lifts every pause of what is named: `--name audit` also those of single lanes of it.
    """
    target = _target(relay, lane, topic, everything=everything)
    with connected_store(settings_from(flags)) as store:
        pauses = store.pauses()
        lifted = [each.target for each in pauses.in_force() if target.covers(each.target)]
        pauses.resume(lifted, new_action("resume", _what(target, None)))
        left = [each for each in pauses.in_force() if _overlap(each.target, target)]
    for each in lifted:
        say(f"resumed: {each}")
    if not lifted:
        say(f"not paused: {target}")
    for still in left:
        whole = still.target.covers(target)
        say(f"still paused, {'and more than that' if whole else 'in part'}: {still.target}")


@click.command(epilog="\b\nExample:\n  outbox-relay paused --json")
@json_option
@database_options
def paused(*, as_json: bool, **flags: object) -> None:
    """Print what is paused, by whom, since when and why."""
    with connected_store(settings_from(flags)) as store:
        found = store.pauses().in_force()
    if as_json:
        print_json("outbox.paused/1", paused=[shown(each) for each in found])
        return
    print_table(
        ("RELAY", "LANE", "TOPIC", "SINCE", "BY", "REASON"),
        [
            (
                each.target.relay or "all",
                each.target.lane or "all",
                each.target.topic or "all",
                _moment(each.at),
                each.actor,
                each.reason or "-",
            )
            for each in found
        ],
    )


def shown(pause: Pause) -> dict[str, object]:
    """Return a pause as JSON tells it: null stands for all."""
    about = {"at": _moment(pause.at), "actor": pause.actor, "reason": pause.reason}
    return {**asdict(pause.target), **about}


def told_of(pauses: list[Pause], now: float) -> Iterator[str]:
    """Yield what there is to say of what is paused."""
    for each in pauses:
        why = f": {each.reason}" if each.reason else ""
        since = duration(max(now - each.at, 0.0))
        yield f"paused by {each.actor} for {since}: {each.target}{why}"


def _target(relay: str | None, lane: str | None, topic: str | None, *, everything: bool) -> Target:
    given = any(each is not None for each in (relay, lane, topic))
    if given == everything:
        raise click.UsageError("say what: --name, --lane, --topic or several of them, or --all")
    return Target(relay, lane, topic)


def _refuse_unknown(store: StoreAdmin, target: Target) -> None:
    """A pause of what is not there would look as if it had worked."""
    if target.relay is not None and target.relay not in store.relays():
        raise ConfigurationError(unknown_relay(target.relay))
    lanes = [lane.name for lane in store.lanes()]
    if target.lane is not None and target.lane not in lanes:
        raise ConfigurationError(
            f"there is no lane called {target.lane!r}; there are {', '.join(sorted(lanes))}"
        )


def _overlap(one: Target, other: Target) -> bool:
    """Return whether something is of both."""
    pairs = zip(astuple(one), astuple(other), strict=True)
    return all(mine is None or theirs in (None, mine) for mine, theirs in pairs)


def _what(target: Target, reason: str | None) -> dict[str, object]:
    return {**asdict(target), **({"reason": reason} if reason else {})}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
