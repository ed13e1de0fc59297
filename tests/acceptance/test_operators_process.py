"""Dead messages in a real Kafka's way: requeued, edited and discarded with the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from outbox.headers import EDITED_FROM
from tests.acceptance import relay_process
from tests.acceptance.relay_process import KEYS, Scene, configure

if TYPE_CHECKING:
    from confluent_kafka import Message

    from tests.servers.kafka_topics import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

SMALL, LARGE = 2_000, 3_000  # bytes that the topic takes in one batch, and of some messages


@pytest.fixture
def dead(postgresql_url: str, kafka: KafkaServer, tmp_path: Path) -> Iterator[Scene]:
    """Give a log of which each key's fourth message is dead, with three behind it."""
    (tmp_path / "outbox.toml").write_text("[retry]\nmax_attempts = 1\n")
    topic = kafka.create_topic(max_message_bytes=str(SMALL), partitions=2)
    with relay_process.scene(postgresql_url, kafka, tmp_path, topic) as scene:
        scene.write(each=3)
        scene.write(padding=LARGE)
        scene.write(each=3)
        drained = scene.commands("run", "--drain")
        assert drained.code == 6, drained.err
        assert "It is dead" in drained.err
        assert states(scene) == {"retrying": 0, "blocked": 3 * KEYS, "dead": KEYS, "expired": 0}
        yield scene


def states(scene: Scene) -> object:
    return scene.commands("held", "list", "--json").json["counts"]


def of_key(scene: Scene, key: str) -> list[Message]:
    found = [m for m in scene.kafka.read(scene.topic) if m.key() == key.encode()]
    return sorted(found, key=lambda message: message.offset() or 0)


def test_what_died_is_requeued_and_goes_in_the_order_of_its_key(
    dead: Scene, kafka: KafkaServer
) -> None:
    # Given that the topic takes larger messages now
    configure(kafka, dead.topic, "max.message.bytes", "1048588")
    assert dead.commands("run", "--drain").code == 6, "what is dead does not go by itself"
    # When an operator lets the dead ones be tried again
    done = dead.commands("held", "requeue", "--state", "dead", "--all-matching", "--yes", "--json")
    assert (done.code, done.json["changed"]) == (0, KEYS), done.err
    # Then they go, and what was blocked behind them follows
    drained = dead.commands("run", "--drain")
    assert drained.code == 0, drained.err
    findings = dead.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert dead.commands("verify").code == 0


def test_an_edited_message_goes_first_of_its_key_and_a_discarded_one_is_not_missing(
    dead: Scene,
) -> None:
    # Given a dead message
    listed = dead.commands("held", "list", "--state", "dead", "--key", "k1", "--json").json
    old = listed["messages"][0]["id"]
    # When an operator edits it
    done = dead.commands("held", "edit", old, "--payload", "4", "--yes", "--json")
    assert (done.code, done.json["changed"], done.json["replaces"]) == (0, 1, old), done.err
    assert done.json["changes"] == ["headers", "payload"]
    assert dead.commands("run", "--drain").code == 6, "the other keys' are dead"
    # Then the new one has gone in its place, before what was blocked behind it
    sent = of_key(dead, "k1")
    assert [int(message.value() or b"0") for message in sent] == [1, 2, 3, 4, 5, 6, 7]
    headers = dict(sent[3].headers() or [])
    assert (headers["id"], headers[EDITED_FROM]) == (
        done.json["message"]["id"].encode(),
        old.encode(),
    )
    # And when the other ones are discarded, what was behind them goes, and nothing is missing
    discarded = dead.commands("held", "discard", "--state", "dead", "--all-matching", "--yes")
    assert discarded.code == 0, discarded.err
    assert dead.commands("run", "--drain").code == 0
    assert [int(m.value() or b"0") for m in of_key(dead, "k2")] == [1, 2, 3, 5, 6, 7]
    verified = dead.commands("verify")
    assert verified.code == 0, (verified.out, verified.err)
    assert f"{KEYS - 1} discarded by an operator, 1 replaced by an operator" in verified.err
    # And the audit tells of both
    actions = dead.commands("audit", "list", "--json").json["actions"]
    assert [(each["command"], each["messages"]) for each in actions] == [
        ("held discard", KEYS - 1),
        ("held edit", 1),
    ]
