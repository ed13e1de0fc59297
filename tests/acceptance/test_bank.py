"""A bank whose every part is killed: both books agree to the penny, and all came in true order."""

from __future__ import annotations

import json
import random
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.bank import ACCOUNTS, BALANCE, NEVER, Bank, Consumer, Load, Transfer
from tests.acceptance.command import Commands
from tests.acceptance.relay_process import HOLDS
from tests.acceptance.topic_check import Findings, Occurrence, examine
from tests.waiting import wait_until

if TYPE_CHECKING:
    from confluent_kafka import Message

    from tests.servers.kafka import KafkaCluster
    from tests.servers.postgresql import PrivatePostgreSQL

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql, pytest.mark.slow]

SEED = 20261121
TOPIC = "transfers"
LOAD_SECONDS = 20.0
KILLS = 10
LONGEST_LIFE = 1.0  # seconds between a relay's taking the lane and its end
LONGEST_WAIT = 3.0  # seconds after which a relay is killed although it has no lane
PEACE = 1.5  # seconds between two disasters
HEADERS = ["id", "type", "content-type", "outbox-position", "branch"]
POSITION = re.compile(r"(?P<log>[0-9a-f-]{36})/default/default/(?P<batch>\d+)/(?P<seq>\d+)")


def test_the_books_agree_whatever_dies(
    private_postgresql: PrivatePostgreSQL,
    private_kafka: KafkaCluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given a bank, a relay, and a branch that repeats the bank's transfers
    bank = Bank(private_postgresql, tmp_path)
    private_kafka.create_topic(TOPIC)
    commands = Commands(tmp_path, bank.url)
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = private_kafka.bootstrap_servers
    with Consumer(bank, private_kafka.bootstrap_servers, TOPIC) as consumer:
        # When everything dies while transfers are made
        with Load(bank, SEED) as load, Relays(commands, random.Random(SEED)) as relays:
            disasters = [consumer.kill, *_disasters(private_kafka, private_postgresql)]
            with _in_background([*disasters, consumer.kill]) as over:
                while not (over.done() and load.seconds >= LOAD_SECONDS and relays.kills >= KILLS):
                    relays.kill_one()
        # And what is left is delivered
        drained = commands("run", "--drain")
        assert drained.code == 0, drained.err
        made = bank.transfers(bank.url)
        # Then the topic holds every transfer in the true order, and at one position
        messages = private_kafka.read(TOPIC)
        findings = _examine(messages, bank)
        assert findings.faults == 0, findings
        _check_verdict(commands, findings)
        assert findings.rewinds <= bank.terms(), findings
        assert {_header(message, "id") for message in messages} == {each.id for each in made}
        _check_positions(messages)
        _wait_for_branch(bank, consumer, len(made))

    # And both books agree, account by account and transfer by transfer
    branch = bank.transfers(bank.branch_url)
    assert bank.balances(bank.branch_url) == bank.balances(bank.url)
    assert sum(bank.balances(bank.url).values()) == ACCOUNTS * BALANCE
    assert sorted(branch) == sorted(made)
    assert _numbers(branch) == _numbers(made) == _all(bank.numbers())
    assert max(transfer.amount for transfer in branch) < NEVER
    # And another client reads the same
    _check_foreign(private_kafka, messages, {each.id: each for each in made})
    assert bank.rolled_back() > 0
    _print(capsys, bank, load, relays, findings)


# What dies


class Relays:
    """One relay process after another, each killed at a random moment, the last one stopped."""

    def __init__(self, commands: Commands, draw: random.Random) -> None:
        self._commands = commands
        self._draw = draw
        self._running = commands.start("run")
        self.kills = 0
        self.kills_of_holders = 0

    def kill_one(self) -> None:
        """Let the relay live for a moment, kill it, and start another one at once.

        Usually it has the lane by then; while a server is away it dies waiting for it.
        """
        wait_until(_either(self._has_lane, _after(LONGEST_WAIT)), what="a relay with the lane")
        threading.Event().wait(self._draw.uniform(0, LONGEST_LIFE))
        self.kills_of_holders += self._has_lane()
        self._end()
        self.kills += 1
        self._running = self._commands.start("run")

    def _has_lane(self) -> bool:
        return any(HOLDS in line for line in self._running.lines)

    def _end(self) -> None:
        assert self._running.process.poll() is None, self._running.lines
        self._running.__exit__(None, None, None)

    def __enter__(self) -> Relays:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._running as last:
            if kind is None:
                last.says(HOLDS)
                last.signal(signal.SIGTERM)
                assert last.wait() == 0, last.lines


def _either(*conditions: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: any(condition() for condition in conditions)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _disasters(kafka: KafkaCluster, postgresql: PrivatePostgreSQL) -> Iterator[Callable[[], None]]:
    """Give the ends of the servers: the broker and the database killed, the database restarted."""
    for disaster in (kafka.kill, postgresql.kill, postgresql.stop):
        server = kafka if disaster == kafka.kill else postgresql
        yield disaster
        yield server.start


@contextmanager
def _in_background(steps: list[Callable[[], None]]) -> Iterator[Future[None]]:
    """Take steps one after the other, with a little peace in between."""

    def take() -> None:
        for step in steps:
            threading.Event().wait(PEACE)
            step()

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(take)
        yield future
        future.result()


def _wait_for_branch(bank: Bank, consumer: Consumer, count: int) -> None:
    try:
        wait_until(
            lambda: len(bank.transfers(bank.branch_url)) >= count,
            what=f"{count} transfers at the branch",
            timeout=60,
        )
    except AssertionError as late:
        raise AssertionError(f"{late}; the consumer said {consumer.said()}") from None


# What became of it


def _numbers(transfers: list[Transfer]) -> dict[str, list[int]]:
    """Return the numbers of the transfers from each account, in the order of the books."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for transfer in transfers:
        numbers[str(transfer.source)].append(transfer.number)
    return dict(numbers)


def _all(last: dict[str, int]) -> dict[str, list[int]]:
    return {key: list(range(1, number + 1)) for key, number in last.items()}


def _examine(messages: list[Message], bank: Bank) -> Findings:
    occurrences = (
        Occurrence(
            message.partition() or 0,
            (message.key() or b"").decode(),
            json.loads(message.value() or b"{}")["number"],
        )
        for message in messages
    )
    return examine(occurrences, bank.numbers())


def _check_verdict(commands: Commands, findings: Findings) -> None:
    """Check that `verify` finds the same: a judge that is blind would be of no use."""
    (judged,) = commands("verify", "--json").json["topics"]
    assert (judged["found"], judged["again"]) == (findings.committed, findings.repeats)
    for fault in ("missing", "out_of_order", "misplaced", "unknown", "foreign", "waiting"):
        assert judged[fault] == 0, judged


def _header(message: Message, name: str) -> str:
    (value,) = [value for each, value in message.headers() or () if each == name]
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_positions(messages: list[Message]) -> None:
    """Check that a message repeats its position, and that new ones lie above all before them."""
    positions: dict[str, str] = {}
    highest: defaultdict[int | None, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for message in messages:
        id_, text = _header(message, "id"), _header(message, "outbox-position")
        if id_ in positions:
            assert positions[id_] == text
            continue
        positions[id_] = text
        found = POSITION.fullmatch(text)
        assert found, text
        position = int(found["batch"]), int(found["seq"])
        assert position > highest[message.partition()]
        highest[message.partition()] = position


def _check_foreign(kafka: KafkaCluster, messages: list[Message], made: dict[str, Transfer]) -> None:
    """Check that Java's client sees the messages as the contract describes them."""
    foreign = kafka.foreign_read(TOPIC)
    assert [(each.partition, each.offset, each.key, each.value) for each in foreign] == [
        (each.partition(), each.offset(), (each.key() or b"").decode(), each.value())
        for each in messages
    ]
    for message in foreign:
        headers = dict(message.headers)
        assert [name for name, _ in message.headers] == HEADERS
        transfer = made[headers["id"] or ""]
        assert message.key == str(transfer.source)
        assert {"id": headers["id"], **json.loads(message.value or b"")} == asdict(transfer)
        assert (headers["type"], headers["content-type"]) == ("transfer.made", "application/json")
        assert headers["branch"] == "north"


def _print(
    capsys: pytest.CaptureFixture[str],
    bank: Bank,
    load: Load,
    relays: Relays,
    findings: Findings,
) -> None:
    figures = {
        "seed": SEED,
        "load_seconds": round(load.seconds, 1),
        "rounds": load.rounds,
        "rolled_back": bank.rolled_back(),
        "relay_kills": relays.kills,
        "with_the_lane": relays.kills_of_holders,
        "terms": bank.terms(),
        **asdict(findings),
    }
    with capsys.disabled():
        print("\nbank:", json.dumps(figures))
