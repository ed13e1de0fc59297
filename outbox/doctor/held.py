"""Checks of what lies beside the log: held messages, scheduled ones, and pauses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from outbox.doctor.check import Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.doctor.words import age, counted
from outbox.store.held import HELD_COUNT_LIMIT, HeldOverview
from outbox.store.pauses import Pause
from outbox.store.scheduling import SCHEDULE_COUNT_LIMIT, ScheduleStatus
from outbox.text import up_to

#: Whoever is told to try again for an hour in vain should be looked at.
_RETRIED_S = 3600.0

#: The relay looks for due messages more often than once a second.
_OVERDUE_S = 60.0

_FORGOTTEN_S = 86_400.0


def dead(held: Mapping[str, HeldOverview]) -> Iterator[Verdict]:
    """Judge messages that only an operator can free, and the keys behind them."""
    for relay, overview in held.items():
        if count := overview.messages["dead"]:
            behind = overview.messages["blocked"]
            waits = f", and {_up_to(behind, 'message')} blocked behind held ones of their keys"
            yield failed(
                f"relay {relay}: {_up_to(count, 'message')} dead, the oldest for"
                f" {age(overview.oldest_seconds.get('dead', 0.0))}{waits if behind else ''}",
                f"outbox-relay held list --name {relay} --state dead, mend the cause, then"
                " outbox-relay held requeue, or discard",
            )


def retried(held: Mapping[str, HeldOverview]) -> Iterator[Verdict]:
    """Judge messages that have been tried, or wait for their topic, for too long."""
    for relay, overview in held.items():
        oldest_s = overview.oldest_seconds.get("retrying", 0.0)
        if oldest_s > _RETRIED_S:
            stopped = overview.stopped_keys
            keys = f", and {_up_to(stopped, 'key')} stopped" if stopped else ""
            yield warning(
                f"relay {relay}: {_up_to(overview.messages['retrying'], 'message')} retrying, the"
                f" oldest written {age(oldest_s)} ago{keys}",
                f"outbox-relay held list --name {relay} --state retrying says why",
            )


def _held_said(held: Mapping[str, HeldOverview]) -> str:
    told = [
        f"relay {relay}: {up_to(count, HELD_COUNT_LIMIT)} {state}"
        for relay, overview in held.items()
        for state, count in overview.messages.items()
        if count
    ]
    return "; ".join(told) or "no message is held"


def overdue(waits: ScheduleStatus) -> Iterator[Verdict]:
    """Judge scheduled messages that should have gone."""
    late_s = -(waits.next_due_seconds or 0.0)
    if late_s > _OVERDUE_S:
        yield failed(
            f"a scheduled message was due {age(late_s)} ago, and no relay has moved it into the"
            " log",
            "start `outbox-relay run`; if one runs, see its log for relay.schedule_failed",
        )


def _schedule_said(waits: ScheduleStatus) -> str:
    scheduled = counted(waits.scheduled, "message", SCHEDULE_COUNT_LIMIT)
    return f"{scheduled} scheduled, {up_to(waits.waiting, SCHEDULE_COUNT_LIMIT)} for a condition"


def forgotten(answer: tuple[list[Pause], float]) -> Iterator[Verdict]:
    """Judge pauses that have been in force for more than a day. `answer`: and the time now."""
    pauses, now = answer
    for pause in pauses:
        if now - pause.at > _FORGOTTEN_S:
            why = f" ({pause.reason})" if pause.reason else ""
            yield warning(
                f"{pause.target} has been paused for {age(now - pause.at)} by {pause.actor}{why}",
                f"outbox-relay resume {_flags(pause)}",
            )


def _flags(pause: Pause) -> str:
    target = pause.target
    given = (("--name", target.relay), ("--lane", target.lane), ("--topic", target.topic))
    return " ".join(f"{flag} {value}" for flag, value in given if value) or "--all"


def _up_to(count: int, thing: str) -> str:
    return f"{counted(count, thing, HELD_COUNT_LIMIT)} {'is' if count == 1 else 'are'}"


CHECKS = (
    check(
        "held-dead",
        "relays",
        looks_at="messages that were given up and wait for an operator, and what waits for them",
        advice="`outbox-relay held list`, then `held requeue` or `held discard`",
        probe=Patient.held,
        judge=dead,
        well=_held_said,
    ),
    check(
        "held-retried",
        "relays",
        looks_at="messages that were written over an hour ago and are tried again",
        advice="`outbox-relay held list --state retrying`",
        probe=Patient.held,
        judge=retried,
        well="no message has been tried for an hour",
    ),
    check(
        "schedule-overdue",
        "relays",
        looks_at="scheduled messages that have been due for over a minute",
        advice="start `outbox-relay run`",
        probe=lambda patient: patient.database.waits(),
        judge=overdue,
        well=_schedule_said,
    ),
    check(
        "pauses-forgotten",
        "relays",
        looks_at="pauses that are older than a day",
        advice="`outbox-relay resume`",
        probe=lambda patient: patient.database.pauses_in_force(),
        judge=forgotten,
        well="no pause is older than a day",
    ),
)
