"""Checks of relay names: whether they fit their log, and whether anybody serves them."""

from __future__ import annotations

from collections.abc import Iterator

from outbox.doctor.check import NotChecked, Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.doctor.words import age, counted
from outbox.errors import BrokerUnavailable
from outbox.store.base import RelayStatus
from outbox.store.diagnosis import Cursor, Sequence
from outbox.version import __version__

_FORGOTTEN_S = 7 * 86_400.0

#: Messages that wait for longer than this, in seconds, should have been sent.
_WAITING_S = 60.0

#: A lease that runs for so many times its length was given before a clock was set back.
_LEASES = 3

_REBASE = "stop the relays and run `outbox-relay migrate --rebase`"


def relay_name(answer: tuple[str, list[Cursor]]) -> Iterator[Verdict]:
    """Judge whether the relay name of the settings exists."""
    name, cursors = answer
    if name not in {cursor.relay for cursor in cursors}:
        known = ", ".join(sorted({cursor.relay for cursor in cursors})) or "none"
        yield failed(
            f"there is no relay called {name!r} (there are: {known}), so `run` would stop",
            f"outbox-relay relays create {name} --from earliest|latest",
        )


def origin(answer: tuple[list[Cursor], Sequence | None]) -> Iterator[Verdict]:
    """Judge whether the cursors belong to this log, and to this database as it is now."""
    cursors, sequence = answer
    for cursor in cursors:
        if (problem := _misfit(cursor, sequence)) is not None:
            yield failed(
                f"the cursor of relay {cursor.relay!r} {problem}: the relay stops", _REBASE
            )


def _misfit(cursor: Cursor, sequence: Sequence | None) -> str | None:
    if cursor.restored:
        return "was restored from a dump or copied from another cluster"
    if not cursor.has_plan:
        return "has no plan: rows of outbox_plan were deleted"
    if cursor.transactions_ahead > 0:
        return (
            f"is {cursor.transactions_ahead} transactions ahead of this database, which went back"
            " in time"
        )
    if sequence is not None and sequence.last_value < cursor.bound:
        return (
            f"has come to message {cursor.bound}, and the sequence stands at {sequence.last_value}:"
            " it was reset"
        )
    return None


def served(lanes: list[RelayStatus]) -> Iterator[Verdict]:
    """Judge whether messages wait and nobody sends them."""
    for lane in lanes:
        waited_s = lane.lag_seconds or 0.0
        held = lane.owner is not None and (lane.lease_seconds or 0.0) > 0
        if waited_s < _WAITING_S or not lane.lag_messages:
            continue
        many = f"{'' if lane.lag_is_exact else 'about '}{_waits(lane.lag_messages)}"
        if held:
            yield warning(
                f"relay {lane.relay}: {many}, the oldest for {age(waited_s)}, although"
                f" {lane.owner} serves it",
                "see the broker's findings and the log of that process",
            )
        else:
            yield failed(
                f"relay {lane.relay}: {many}, the oldest for {age(waited_s)}, and no process"
                " delivers them",
                f"start `outbox-relay run --name {lane.relay}`",
            )


def forgotten(cursors: list[Cursor]) -> Iterator[Verdict]:
    """Judge relay names that nobody has served for long: they keep the log from being emptied."""
    for cursor in cursors:
        held = cursor.owner is not None and (cursor.lease_s or 0.0) > 0
        if cursor.idle_s > _FORGOTTEN_S and not held:
            yield warning(
                f"nobody has served relay {cursor.relay} for {age(cursor.idle_s)}; what it has not"
                " delivered cannot be removed from the log",
                f"outbox-relay relays forget {cursor.relay}, or start `outbox-relay run --name"
                f" {cursor.relay}`",
            )


def leases(answer: tuple[list[Cursor], float]) -> Iterator[Verdict]:
    """Judge leases that run for longer than anybody asks for."""
    cursors, lease_s = answer
    for cursor in cursors:
        if cursor.lease_s is not None and cursor.lease_s > _LEASES * lease_s:
            yield warning(
                f"the lease of relay {cursor.relay} ends in {age(cursor.lease_s)}, although a lease"
                f" is {lease_s:g} s: the clock that it goes by was set back, or {cursor.owner} has"
                " another setting. If that process dies, nobody stands in for it until then",
                "mend the clock, then stop and start that process",
            )


def versions(lanes: list[RelayStatus]) -> Iterator[Verdict]:
    """Judge processes that run another version than this one."""
    for lane in lanes:
        for process in lane.processes:
            if process.version != __version__:
                yield warning(
                    f"relay {lane.relay}: process {process.process} runs version"
                    f" {process.version}, this is {__version__}",
                    "finish the upgrade: restart that process",
                )


def cluster(answer: tuple[str, list[Cursor]]) -> Iterator[Verdict]:
    """Judge whether a relay name has met this broker before. `answer`: the cluster's id first."""
    found, cursors = answer
    for cursor in cursors:
        if cursor.cluster_id and found and cursor.cluster_id != found:
            yield failed(
                f"relay {cursor.relay} has published to Kafka cluster {cursor.cluster_id!r}, and"
                f" this is {found!r}: the relay stops",
                f"give the other broker, or outbox-relay relays rebind {cursor.relay}",
            )


def _cluster(patient: Patient) -> tuple[str, list[Cursor]]:
    try:
        found = patient.cluster().id
    except BrokerUnavailable as error:
        raise NotChecked("the broker cannot be reached (see broker)") from error
    mine = [cursor for cursor in patient.cursors() if cursor.relay == patient.settings.name]
    return found, mine


def _said(lanes: list[RelayStatus]) -> str:
    return "; ".join(f"relay {lane.relay}: {_waits(lane.lag_messages)}" for lane in lanes)


CHECKS = (
    check(
        "relay-name",
        "relays",
        looks_at="whether the relay name of the settings exists",
        advice="`outbox-relay relays create NAME`",
        probe=lambda patient: (patient.settings.name, patient.cursors()),
        judge=relay_name,
        well=lambda answer: f"relay {answer[0]} exists",
    ),
    check(
        "cursor-origin",
        "relays",
        looks_at="cursors that were restored from elsewhere, or are ahead of their database",
        advice="stop the relays and run `outbox-relay migrate --rebase`",
        probe=lambda patient: (patient.cursors(), patient.sequence()),
        judge=origin,
        well="all cursors belong to this log",
    ),
    check(
        "relay-served",
        "relays",
        looks_at="messages that wait and that no process delivers",
        advice="start `outbox-relay run`",
        probe=lambda patient: patient.lanes(),
        judge=served,
        well=_said,
    ),
    check(
        "relay-forgotten",
        "relays",
        looks_at="relay names that nobody has served for a week",
        advice="`outbox-relay relays forget NAME`",
        probe=lambda patient: patient.cursors(),
        judge=forgotten,
        well="all relay names have been served lately",
    ),
    check(
        "lease-clock",
        "relays",
        looks_at="leases that end far later than a lease lasts",
        advice="mend the clock, then restart the process that holds it",
        probe=lambda patient: (patient.cursors(), patient.settings.lease),
        judge=leases,
        well="no lease runs for longer than it should",
    ),
    check(
        "relay-versions",
        "relays",
        looks_at="relay processes of another version",
        advice="restart them",
        probe=lambda patient: patient.lanes(),
        judge=versions,
        well="no process of another version runs",
    ),
    check(
        "cluster-binding",
        "relays",
        looks_at="a broker other than the one that the relay name has published to",
        advice="`outbox-relay relays rebind NAME`",
        probe=_cluster,
        judge=cluster,
        well=lambda answer: f"the Kafka cluster is {answer[0]}, as before or for the first time",
    ),
)


def _waits(count: int) -> str:
    return f"{counted(count, 'message')} {'waits' if count == 1 else 'wait'}"
