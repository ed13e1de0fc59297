"""What every store must do about what is paused. Subclasses give a `kit`."""

from __future__ import annotations

import json
from typing import Any

from outbox.store.held import Action
from outbox.store.pauses import Target
from tests.conformance.store_kit import StoreKit


def action(command: str = "pause") -> Action:
    made = "018f3f1e-0000-7000-8000-000000000001"
    return Action(made, "ada", "host pid=1", command, {"lane": "bulk"})


def audited(kit: StoreKit) -> list[tuple[str, str, Any]]:
    rows = kit.writer().execute("select command, actor, what from outbox_audit order by id")
    return [
        (command, actor, json.loads(what) if isinstance(what, str) else what)
        for command, actor, what in rows
    ]


class PausesSuite:
    """Subclass it and give it a fixture `kit`."""

    def test_nothing_is_paused_at_first(self, kit: StoreKit) -> None:
        store = kit.store()

        assert store.pauses().in_force() == []
        assert not store.paused("default").stop("default")

    def test_a_pause_says_who_and_why_and_is_seen_by_other_processes(self, kit: StoreKit) -> None:
        target = Target("default", "bulk", "orders")

        assert kit.store().pauses().pause(target, "repairs", action())

        (found,) = kit.store().pauses().in_force()
        assert (found.target, found.actor, found.reason) == (target, "ada", "repairs")
        assert found.at > 1e9

    def test_the_same_is_paused_once_whatever_of_it_is_open(self, kit: StoreKit) -> None:
        pauses = kit.store().pauses()
        targets = [Target(), Target("a"), Target(lane="a"), Target(topic="a"), Target("a", "a")]

        assert [pauses.pause(target, None, action()) for target in targets] == [True] * 5
        assert [pauses.pause(target, None, action()) for target in targets] == [False] * 5
        assert [each.target for each in pauses.in_force()] == targets
        assert len(audited(kit)) == 5

    def test_a_relay_sees_what_is_of_it_and_what_is_of_all(self, kit: StoreKit) -> None:
        pauses = kit.store().pauses()
        for target in (Target("audit"), Target(lane="bulk"), Target(topic="orders")):
            pauses.pause(target, None, action())

        default, audit = kit.store().paused("default"), kit.store().paused("audit")

        assert [default.stop(each) for each in ("default", "bulk", "bulk:1")] == [False, True, True]
        assert audit.stop("default")
        assert default.topics("default") == {"orders"}

    def test_what_is_resumed_is_paused_no_more_and_the_rest_stays(self, kit: StoreKit) -> None:
        pauses = kit.store().pauses()
        for target in (Target("audit"), Target(lane="bulk"), Target()):
            pauses.pause(target, None, action())

        assert pauses.resume([Target(lane="bulk"), Target()], action("resume")) == 2
        assert pauses.resume([Target(lane="bulk")], action("resume")) == 0

        assert [each.target for each in pauses.in_force()] == [Target("audit")]
        assert audited(kit)[-1] == ("resume", "ada", {"lane": "bulk"})
        assert len(audited(kit)) == 4
