"""Checks of lanes: whether messages go by the ones they name, and whether a change has ended."""

from __future__ import annotations

from collections.abc import Iterator

from outbox.doctor.check import Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.doctor.words import counted
from outbox.store.diagnosis import Cursor, LaneUse


def undeclared(use: LaneUse) -> Iterator[Verdict]:
    """Judge whether messages name lanes that there are not."""
    known = {lane.name for lane in use.lanes}
    for name, messages in sorted(use.named.items()):
        if name not in known:
            verb = "names" if messages == 1 else "name"
            yield warning(
                f"{counted(messages, 'message')} of the latest {verb} lane {name!r}, which nobody"
                " declared: they go by default",
                f"outbox-relay lanes declare {name}, or correct the writers",
            )


def streams(answer: tuple[LaneUse, list[Cursor]]) -> Iterator[Verdict]:
    """Judge whether each relay name has the streams of the present lanes, and no others."""
    use, cursors = answer
    present = {stream for lane in use.lanes for stream in lane.streams}
    for cursor in cursors:
        held = cursor.owner is not None and (cursor.lease_s or 0.0) > 0
        if cursor.lane not in present and not held:
            yield warning(
                f"stream {cursor.lane} of relay {cursor.relay} is none of the present lanes any"
                " more, has not come to its end, and no process serves it: the lanes after it wait",
                f"start `outbox-relay run --name {cursor.relay}`",
            )
    for relay in sorted({cursor.relay for cursor in cursors}):
        has = {cursor.lane for cursor in cursors if cursor.relay == relay}
        for stream in sorted(present - has):
            yield failed(
                f"relay {relay} has no cursor for stream {stream}: rows of outbox_cursor were"
                " deleted, and the messages of that stream are not delivered",
                f"outbox-relay relays forget {relay}, then create it --from a time before that",
            )


def _streams_said(answer: tuple[LaneUse, list[Cursor]]) -> str:
    return ", ".join(
        f"lane {lane.name} of priority {lane.priority}"
        + (f" with {lane.shards} shards" if lane.shards > 1 else "")
        for lane in answer[0].lanes
    )


def _of_both(patient: Patient) -> tuple[LaneUse, list[Cursor]]:
    return patient.lane_use(), patient.cursors()


CHECKS = (
    check(
        "lanes-declared",
        "relays",
        looks_at="lanes that recent messages name and nobody declared",
        advice="`outbox-relay lanes declare NAME`",
        probe=lambda patient: patient.lane_use(),
        judge=undeclared,
        well="recent messages name no lane that is not declared",
    ),
    check(
        "lanes-streams",
        "relays",
        looks_at="streams of earlier lanes that nobody serves, and cursors that are missing",
        advice="start `outbox-relay run`",
        probe=_of_both,
        judge=streams,
        well=_streams_said,
    ),
)
