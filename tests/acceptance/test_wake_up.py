"""`outbox-relay run --wake-up notify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox import Notifier
from tests.acceptance.command import Commands
from tests.servers.availability import require
from tests.servers.pgbouncer import PgBouncer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.relay_process import Scene

HOUR = "3600"


def test_a_relay_process_that_would_wait_for_an_hour_is_woken(scene: Scene) -> None:
    # Given a relay that looks once an hour, and hears
    relay = scene.holder("--wake-up", "notify", "--poll-interval", HOUR)
    relay.says("notifications wake the relay")
    with Notifier(scene.url) as notifier:
        # When messages are written and somebody tells
        for _ in range(3):
            scene.write(each=100)
            notifier.wake()
            # Then they are delivered
            scene.wait_until_delivered()
    assert scene.verdict().faults == 0


def test_through_a_pooler_in_transaction_mode_it_says_so_and_polls(scene: Scene) -> None:
    with require(lambda: PgBouncer(scene.url)) as pooler:
        relay = scene.holder("--wake-up", "notify", "--database-url", pooler.url)
        scene.write()
        scene.wait_until_delivered()
        relay.says("LISTEN does not work on this connection")
        scene.write()
        scene.wait_until_delivered()


def test_where_there_are_no_notifications_it_does_not_start(tmp_path: Path) -> None:
    commands = Commands(tmp_path, f"sqlite:///{tmp_path}/log.db")
    assert commands("migrate").code == 0
    done = commands("run", "--wake-up", "notify", "-X", "bootstrap.servers=127.0.0.1:1")
    assert done.code == 78
    assert "only PostgreSQL has notifications" in done.err


@pytest.mark.parametrize("word", ["listen", ""])
def test_another_word_is_refused(tmp_path: Path, word: str) -> None:
    commands = Commands(tmp_path, f"sqlite:///{tmp_path}/log.db")
    done = commands("run", "--wake-up", word)
    assert done.code == 78
    assert "use poll or notify" in done.err
