"""Writers that keep books over a fail-over, and what a topic may hold then.

Each message has a token that nothing else has, and the next number of its key, drawn under the lock
of the key's row. A database that goes back in time draws the same numbers again, with other tokens.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import LiteralString, NamedTuple

import psycopg

WRITERS = 4
PAUSE_S = 0.01
ROLLED_BACK_OF = 4

_WRITE: LiteralString = """
    with drawn as (
        update counter set number = number + 1 where key = %(key)s returning number)
    insert into outbox_message (topic, key, payload)
    select %(topic)s, %(key)s, convert_to(number || ':' || %(token)s, 'UTF8') from drawn"""


class Sent(NamedTuple):
    """A message, in the log or in a topic."""

    key: str
    number: int
    token: str

    @classmethod
    def parse(cls, key: str, payload: bytes) -> Sent:
        number, _, token = payload.decode().partition(":")
        return cls(key, int(number), token)


@dataclass
class Books:
    """What the writers were told of their transactions, by token.

    `unsure`: the connection broke during the commit.
    """

    confirmed: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    rolled_back: set[str] = field(default_factory=set)


@contextmanager
def writing(url: str, topic: str, keys: Sequence[str]) -> Iterator[Books]:
    """Let writers commit, and roll back one transaction of four, whatever becomes of the server."""
    books = Books()
    stop = threading.Event()
    arguments = url, topic, itertools.cycle(keys), books, stop
    # Daemons: without its standby a synchronous primary lets nobody end.
    threads = [threading.Thread(target=_write, args=arguments, daemon=True) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield books
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def _write(url: str, topic: str, keys: Iterator[str], books: Books, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(url, connect_timeout=3) as connection:
                while not stop.wait(PAUSE_S):
                    values = {"key": next(keys), "topic": topic, "token": secrets.token_hex(8)}
                    connection.execute(_WRITE, values)
                    _end(connection, values["token"], books)
        except psycopg.OperationalError:
            stop.wait(0.1)  # the server is away; go on when there is one


def _end(connection: psycopg.Connection, token: str, books: Books) -> None:
    if int(token, 16) % ROLLED_BACK_OF == 0:
        books.rolled_back.add(token)
        connection.rollback()
        return
    books.unsure.add(token)
    connection.commit()
    books.confirmed.add(token)
    books.unsure.discard(token)


@dataclass(frozen=True)
class Outcome:
    """What became of the messages, by count; beside `published_and_lost` and `repeats`, which only
    a database that went back in time explains, everything should be zero.

    `lost`: confirmed to their writer, and not in the log any more. `missing`: in the log, and not
    in the topic. `phantoms`: in the topic, and never committed anywhere. `disordered`: places where
    the first occurrences of a key are out of order within one history. `late`: messages of the lost
    history behind new ones of their key. `new_repeats`: repeats of what was written afterwards.
    """

    lost: int
    missing: int
    phantoms: int
    disordered: int
    late: int
    published_and_lost: int
    repeats: int
    new_repeats: int


def examine(topic: Iterable[Sent], log: Sequence[Sent], books: Books, before: set[str]) -> Outcome:
    """Compare a topic and the log that is left with what the writers were told.

    `before`: the tokens that were confirmed when the server went away, or unsure.
    """
    counted = Counter(topic)
    firsts: defaultdict[str, list[Sent]] = defaultdict(list)
    for sent in counted:  # in the order of their first occurrence
        firsts[sent.key].append(sent)
    left = {sent.token for sent in log}
    there = {sent.token for sent in counted}
    ended = books.confirmed | books.unsure
    return Outcome(
        lost=len(books.confirmed - left),
        missing=len(left - there),
        phantoms=len(there - left - ended) + len(there & books.rolled_back),
        disordered=sum(
            _falls(history)
            for found in firsts.values()
            for history in (
                [sent for sent in found if sent.token in left],
                [sent for sent in found if sent.token in before],
            )
        ),
        late=sum(_late(found, left, before) for found in firsts.values()),
        published_and_lost=len(there - left),
        repeats=counted.total() - len(counted),
        new_repeats=sum(count - 1 for sent, count in counted.items() if sent.token not in before),
    )


def _falls(sent: list[Sent]) -> int:
    return sum(later.number <= earlier.number for earlier, later in pairwise(sent))


def _late(found: list[Sent], left: set[str], before: set[str]) -> int:
    """Count what is of the lost history and lies behind the first message of the new one."""
    new = next((at for at, sent in enumerate(found) if sent.token not in before), len(found))
    return sum(sent.token not in left for sent in found[new:])
