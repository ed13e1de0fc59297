"""outbox-relay status"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from outbox.cli import pauses
from outbox.cli.exit_codes import CHECK_FAILED
from outbox.cli.options import database_options, json_option, reworded, settings_from
from outbox.cli.output import duration, print_json, print_table, say
from outbox.cli.waiting import connected_store
from outbox.record import EXACTLY_ONCE
from outbox.store.held import HELD_COUNT_LIMIT
from outbox.store.pauses import Pauses
from outbox.store.scheduling import SCHEDULE_COUNT_LIMIT
from outbox.text import up_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from outbox.store.base import BacklogState, Blocker, RelayStatus
    from outbox.store.held import HeldOverview
    from outbox.store.pauses import Pause
    from outbox.store.scheduling import ScheduleStatus

#: A transaction that holds messages for longer than this, in seconds, deserves a word.
_LONG_S = 60.0

EPILOG = """\b
Examples:
  outbox-relay status
  outbox-relay status --json
  outbox-relay status --name default --fail-if-lag 60"""


@click.command(epilog=EPILOG)
@click.option("--name", "relay", metavar="NAME", help="One relay name only.")
@click.option(
    "--fail-if-lag",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Exit 6 if a message has waited for longer.",
)
@json_option
@database_options
@click.pass_context
def status(
    ctx: click.Context,
    /,
    *,
    relay: str | None,
    fail_if_lag: float | None,
    as_json: bool,
    **flags: object,
) -> None:
    """Show how far each relay name has come, and what holds it up."""
    with connected_store(settings_from(flags)) as store:
        relays, blockers = store.status(relay), store.blockers()
        waiting = store.schedule().status()
        names = sorted({lane.relay for lane in relays})
        held = {name: store.held_admin().overview(name) for name in names}
        paused, backlog = store.pauses().in_force(), store.backlog()
    if as_json:
        print_json(
            "outbox.status/1",
            relays=[asdict(lane) for lane in relays],
            blockers=[asdict(blocker) for blocker in blockers],
            scheduled=asdict(waiting),
            held={name: asdict(overview) for name, overview in held.items()},
            paused=[pauses.shown(each) for each in paused],
            backlog=asdict(backlog),
        )
    else:
        _show(relays, blockers, paused)
        told = (
            *_told_of_delivery(relays),
            *told_of(waiting),
            *_told_of_held(held),
            *_told_of_backlog(backlog),
        )
        for sentence in (*pauses.told_of(paused, time.time()), *told):
            say(reworded(sentence))
    ctx.exit(_verdict(relays, fail_if_lag))


def _show(relays: list[RelayStatus], blockers: list[Blocker], paused: list[Pause]) -> None:
    targets = frozenset(each.target for each in paused)
    print_table(
        ("RELAY", "LANE", "WAITING", "OLDEST", "HELD BY", "LEASE", "STATE"),
        [(*_row(lane), state_of(lane, Pauses(lane.relay, targets))) for lane in relays],
    )
    for hint in hints(relays, blockers):
        say(reworded(hint))


def state_of(lane: RelayStatus, paused: Pauses) -> str:
    """Return what the process says that holds a lane, or would; - if there is none.

    `waiting`: for a server or a topic that is away, which it tries again from time to time.
    """
    if paused.stop(lane.lane):
        return "paused"
    states = {each.process: each.state for each in lane.processes}
    if lane.owner in states:
        return states[lane.owner]
    return "waiting" if "waiting" in states.values() else "-"


def _told_of_backlog(backlog: BacklogState) -> Iterator[str]:
    """Yield what writers do because too many messages wait."""
    if backlog.limit is not None and backlog.messages >= backlog.limit:
        does = "refuse messages" if backlog.action == "raise" else "warn"
        counted = duration(backlog.counted_seconds or 0.0)
        yield (
            f"writers {does}: {backlog.messages} messages waited {counted} ago, and the limit is"
            f" {backlog.limit}"
        )


def _told_of_held(held: Mapping[str, HeldOverview]) -> Iterator[str]:
    """Yield what cannot be sent; states are counted up to a limit."""
    for relay, overview in held.items():
        told = [
            f"{up_to(count, HELD_COUNT_LIMIT)} {state}"
            for state, count in overview.messages.items()
            if count
        ]
        if told:
            yield f"relay {relay}: messages are held: {', '.join(told)}{_age_and_keys(overview)}"
            yield f"see `outbox-relay held list --name {relay}`"


def _age_and_keys(overview: HeldOverview) -> str:
    oldest = max(overview.oldest_seconds.values(), default=None)
    age = "" if oldest is None else f"; the oldest was written {duration(oldest)} ago"
    keys = overview.stopped_keys
    if not keys:
        return age
    return f"{age}; {up_to(keys, HELD_COUNT_LIMIT)} {'key is' if keys == 1 else 'keys are'} stopped"


def _told_of_delivery(relays: Iterable[RelayStatus]) -> Iterator[str]:
    """Yield which relay names publish exactly once, by whoever held their lanes last."""
    for name in sorted({lane.relay for lane in relays if lane.delivery == EXACTLY_ONCE}):
        yield f"relay {name} publishes exactly once"


def _row(lane: RelayStatus) -> tuple[str, ...]:
    about = "" if lane.lag_is_exact else "about "
    return (
        lane.relay,
        lane.lane,
        f"{about}{lane.lag_messages}",
        "-" if lane.lag_seconds is None else duration(lane.lag_seconds),
        _holder(lane.owner),
        "-" if lane.lease_seconds is None else duration(max(lane.lease_seconds, 0.0)),
    )


def _holder(owner: str | None) -> str:
    """Return the host and the process; what else is in an owner's name is for comparing alone."""
    return "nobody" if owner is None else " ".join(owner.split()[:2])


def hints(relays: list[RelayStatus], blockers: list[Blocker]) -> Iterator[str]:
    """Yield what an operator might do about what the table shows."""
    for lane in relays:
        if lane.lag_messages and not _is_served(lane):
            yield (
                f"relay {lane.relay}: messages wait and no process delivers them; start "
                f"`outbox-relay run --name {lane.relay}`, or drop the name with "
                f"`outbox-relay relays forget {lane.relay}`"
            )
    for blocker in blockers:
        if blocker.age_seconds > _LONG_S:
            yield (
                f"{blocker.kind} transaction ({blocker.who}) has held messages for "
                f"{duration(blocker.age_seconds)}; they are sent when it commits"
            )


def told_of(waiting: ScheduleStatus) -> Iterator[str]:
    """Yield what there is to say of messages that wait for a time or a condition."""
    due_s = waiting.next_due_seconds
    if waiting.scheduled and due_s is not None:
        when = f"is due in {duration(due_s)}" if due_s > 0 else f"was due {duration(-due_s)} ago"
        yield f"{_many(waiting.scheduled, 'is', 'are')} scheduled, the next {when}"
        if due_s < -_LONG_S:
            yield "nobody moves what is due into the log; start `outbox-relay run`"
    if waiting.waiting:
        yield f"{_many(waiting.waiting, 'waits', 'wait')} for a condition"


def _many(count: int, one: str, more: str) -> str:
    told = up_to(count, SCHEDULE_COUNT_LIMIT)
    return f"{told} message {one}" if count == 1 else f"{told} messages {more}"


def _is_served(lane: RelayStatus) -> bool:
    return lane.owner is not None and (lane.lease_seconds or 0.0) > 0


def _verdict(relays: list[RelayStatus], fail_if_lag: float | None) -> int:
    if fail_if_lag is None:
        return 0
    late = [lane for lane in relays if (lane.lag_seconds or 0.0) > fail_if_lag]
    for lane in late:
        say(f"relay {lane.relay}: the oldest message waits for {duration(lane.lag_seconds or 0.0)}")
    return CHECK_FAILED if late else 0
