"""What every store must do when an operator replaces a message, or removes some."""

from __future__ import annotations

from typing import Any

import pytest

from outbox.errors import LogInconsistent
from outbox.headers import EDITED_FROM
from outbox.store.held import Action, Edition, HeldFilter, HeldMessage, Hold
from outbox.writer.editing import Changes, edited
from tests.conformance.held_suite import MANY, Scene, scene
from tests.conformance.store_kit import StoreKit

ACTION = Action(
    "018f3f1e-0000-7000-8000-00000000000b", "ada", "host pid=1", "held edit", {"relay": "default"}
)


def dead(at: Scene, number: int, **given: Any) -> Hold:
    return Hold(at.seq(number), "dead", blocks=True, attempts=9, fault="message", **given)


def edit(at: Scene, which: HeldMessage, **changes: Any) -> Edition | None:
    """Edit a message; return what is there instead, None where nothing was done."""
    admin = at.kit.store().held_admin()
    old = admin.content("default", which.seq)
    assert old is not None
    new = edited(old, Changes(**changes))
    return new if admin.edit(which, "default", new, ACTION) else None


def only(at: Scene, **filters: Any) -> HeldMessage:
    (found,) = at.kit.store().held_admin().find(HeldFilter("default", **filters), MANY)
    return found


class EditSuite:
    """Subclass it and give it a fixture `kit`."""

    def test_a_message_takes_the_place_of_a_dead_one(self, kit: StoreKit) -> None:
        # Given a key with a dead message, and one behind it
        at = scene(kit, "a", "a", "b")
        at.hold(dead(at, 0), at.blocked(1))

        # When its payload is edited
        new = edit(at, only(at, states=("dead",)), payload=b"mended", headers={"by": "ada"})

        # Then the new one is due, before what is blocked behind it
        assert new is not None
        (due,) = at.held.due(at.lease, MANY, 10**6)
        assert (due.record.seq, due.record.id) == (at.seq(0), new.id)
        assert (bytes(due.record.payload or b""), due.record.key, due.attempts) == (
            b"mended",
            "a",
            0,
        )
        assert at.column("state") == ["retrying", "blocked"]
        assert at.held.stopped_keys(at.lease, MANY) == {("t", "a")}
        # and says which it replaces
        assert f'["{EDITED_FROM}","{at.records[0].id}"]' in new.headers
        assert new.id != at.records[0].id

        # And when it is delivered, the next one follows
        at.settle(at.seq(0))
        assert at.due_seqs() == [at.seq(1)]

    def test_with_another_topic_it_stands_alone_and_its_key_goes_on(self, kit: StoreKit) -> None:
        # Given a dead message, one blocked behind it, and the new topic's key stopped as well
        at = scene(kit, "a", "a", "c")
        at.hold(dead(at, 0), at.blocked(1), dead(at, 2))
        kit.writer().execute("update outbox_held set topic = 'u', key = 'a' where key = 'c'")

        new = edit(at, only(at, states=("dead",), topic="t"), topic="u")

        assert new is not None
        assert sorted(at.due_seqs()) == [at.seq(0), at.seq(1)]
        assert at.column("blocks") in ([False, True, True], [0, 1, 1])
        assert at.held.stopped_keys(at.lease, MANY) == {("t", "a"), ("u", "a")}

    def test_what_expired_goes_after_all_and_expires_no_more(self, kit: StoreKit) -> None:
        at = scene(kit, "a")
        at.hold(Hold(at.seq(0), "expired", blocks=False, fault="expired"))
        assert edit(at, only(at), payload=b"late") is not None
        assert at.due_seqs() == [at.seq(0)]
        assert at.column("expires_at") == [None]

    @pytest.mark.parametrize("state", ["retrying", "blocked"])
    def test_what_a_relay_may_be_sending_is_left_alone(self, kit: StoreKit, state: str) -> None:
        at = scene(kit, "a", "a")
        at.hold(at.failed(0), at.blocked(1))
        assert edit(at, only(at, states=(state,)), payload=b"new") is None
        assert kit.store().held_admin().audit(MANY) == []

    def test_what_was_edited_meanwhile_is_left_alone(self, kit: StoreKit) -> None:
        at = scene(kit, "a")
        at.hold(dead(at, 0))
        before = only(at)
        assert edit(at, before, payload=b"first") is not None
        assert edit(at, before, payload=b"second") is None
        assert [bytes(payload) for payload in at.column("payload")] == [b"first"]

    def test_one_that_was_edited_twice_names_what_the_application_wrote(
        self, kit: StoreKit
    ) -> None:
        at = scene(kit, "a")
        at.hold(dead(at, 0))
        assert edit(at, only(at), payload=b"first") is not None
        kit.writer().execute("update outbox_held set state = 'dead', next_attempt_at = null")
        new = edit(at, only(at), payload=b"second")
        assert new is not None
        assert new.headers == f'[["{EDITED_FROM}","{at.records[0].id}"]]'

    def test_a_relay_that_holds_the_same_message_once_more_keeps_the_new_one(
        self, kit: StoreKit
    ) -> None:
        """As one does that went back to an earlier position after a crash."""
        at = scene(kit, "a")
        at.hold(dead(at, 0))
        new = edit(at, only(at), payload=b"mended")
        at.hold(dead(at, 0))
        assert new is not None
        assert str(at.column("id")[0]) == new.id
        # and one that only looks like it is found out
        kit.writer().execute('update outbox_held set headers = \'[["a", "b"]]\'')
        with pytest.raises(LogInconsistent):
            at.hold(dead(at, 0))

    def test_the_audit_tells_what_was_done_and_keeps_which_messages(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "b")
        at.hold(dead(at, 0), dead(at, 1))
        new = edit(at, only(at, key="a"), payload=b"mended")
        admin = kit.store().held_admin()
        admin.discard(HeldFilter("default", key="b"), MANY, ACTION)
        assert new is not None
        (noted,) = admin.audit(MANY)
        assert noted.messages == 2
        assert not noted.what.keys() & {"seqs", "ids"}, "a list of all would be too long"


class TestSQLite(EditSuite):
    @pytest.fixture
    def kit(self, sqlite_kit: StoreKit) -> StoreKit:
        return sqlite_kit


@pytest.mark.postgresql
class TestPostgreSQL(EditSuite):
    @pytest.fixture
    def kit(self, postgresql_kit: StoreKit) -> StoreKit:
        return postgresql_kit
