"""Both sides of a comparison, in a SQLite file of its own, so that no log is too large for it.

The file is deleted with the ledger. What it needs of memory is the cache below, whatever the log's
size; on disk it is about 250 bytes a message and record (TMPDIR says where).
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from outbox.store.retained import Standing
from outbox.verify.order import ends_of_runs, out_of_place, stragglers
from outbox.verify.records import key_number

if TYPE_CHECKING:
    from outbox.store.retained import Entry, Removal
    from outbox.verify.courses import Courses
    from outbox.verify.records import Occurrence

_CACHE_KIB = 32 * 1024

_TABLES = """
    create table topic (no integer primary key, name text unique);
    create table message (seq integer primary key, id blob, topic integer, key integer,
                          created real, standing integer, tombstone integer, lane integer);
"""


#: How messages stand that the cursor has passed, and that are held no more.
PASSED = (Standing.DELIVERED, Standing.DISCARDED, Standing.REPLACED)
_PASSED = ", ".join(str(int(standing)) for standing in PASSED)


class Seen(NamedTuple):
    """A record that a finding is about; `message` is the seq of its message, None if unknown."""

    partition: int
    offset: int
    id: bytes
    batch: int | None
    seq: int | None
    message: int | None


class NotFound(NamedTuple):
    """A delivered message that is not in its topic."""

    seq: int
    created_at: float
    tombstone: bool
    followed: bool  # by a later message of its key
    standing: Standing  # delivered, or removed by an operator


_SEEN = "part, off, id, batch, seq, message"


class Ledger:
    """The messages of the log, and the records of one topic at a time."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="outbox-verify-")
        self._db = sqlite3.connect(Path(self._directory.name) / "ledger.db", isolation_level=None)
        self._db.executescript(
            f"pragma journal_mode = off; pragma synchronous = off; pragma temp_store = file;"
            f"pragma cache_size = -{_CACHE_KIB}; {_TABLES}"
        )
        self._topics: dict[str, int] = {}
        self._lanes: dict[str | None, int] = {}

    def close(self) -> None:
        """Delete it."""
        self._db.close()
        self._directory.cleanup()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The log

    def add_entries(self, entries: Iterable[Entry]) -> None:
        """Take messages of the log."""
        self._write(
            "insert into message values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    entry.seq,
                    entry.id,
                    self._topic(entry.topic),
                    None if entry.key is None else key_number(entry.key),
                    entry.created_at,
                    entry.standing,
                    entry.tombstone,
                    self._lanes.setdefault(entry.lane, len(self._lanes)),
                )
                for entry in entries
            ),
        )

    def remove(self, removal: Removal, topics: Collection[str]) -> None:
        """Note that an operator has removed messages that are taken for delivered.

        The message that goes in place of one is looked for instead, with its id and in its topic;
        if that is none of `topics` (empty: all of them), neither is.
        """
        these = f"seq = ? and id = ? and standing in ({_PASSED})"
        values: tuple[object, ...] = ()
        if removal.topic is None or removal.id is None:
            change = f"update message set standing = {removal.standing:d}"
        elif topics and removal.topic not in topics:
            change = "delete from message"
        else:
            change = f"update message set standing = {removal.standing:d}, id = ?, topic = ?"
            values = (removal.id, self._topic(removal.topic))
        self._write(f"{change} where {these}", ((*values, *each) for each in removal.messages))

    def _topic(self, name: str) -> int:
        return self._topics.setdefault(name, len(self._topics))

    def topics(self) -> list[str]:
        """Return the topics of the messages; no more messages are taken after that."""
        self._db.execute("create index if not exists message_id on message (topic, id)")
        sql = "select exists (select 1 from message where topic = ?)"
        return sorted(topic for topic, no in self._topics.items() if self._one(sql, no))

    def seqs(self, kept_since: float) -> tuple[int, int]:
        """Return the range of numbers of which no message was removed since `kept_since`."""
        row = self._one("select min(seq) from message where created >= ?", kept_since)
        last = self._one("select max(seq) from message")
        return (row, last) if row is not None else (0, -1)

    def oldest(self, topic: str) -> float:
        """Return when the first message for a topic was written."""
        found = self._one("select min(created) from message where topic = ?", self._topics[topic])
        return float(found)

    def standings(self, topic: str) -> dict[Standing, int]:
        """Return how many messages for a topic stand how."""
        rows = self._db.execute(
            "select standing, count(*) from message where topic = ? group by 1",
            (self._topics[topic],),
        )
        return {Standing(standing): count for standing, count in rows}

    # A topic

    def begin_topic(self) -> None:
        """Forget the records of the topic before."""
        self._db.executescript(
            """drop table if exists record; drop table if exists seen; drop table if exists run;
               create table record (at integer, part integer, off integer, id blob, stream integer,
                                    batch integer, seq integer)"""
        )

    def add_records(self, records: Iterable[tuple[int, Occurrence]]) -> None:
        """Take records, each with its timestamp."""
        self._write(
            "insert into record values (?, ?, ?, ?, ?, ?, ?)",
            ((at, *occurrence) for at, occurrence in records),
        )

    def match(self, topic: str) -> None:
        """Find the message of each record: by its number where it has a position, else by its id.

        The cast makes it a column of integers, without which no index on it would be used.
        Of the records of a message `nth` is 1 for the first one, and `places` how many of them have
        a position. Within a partition the first is the one with the lowest offset: what a frozen
        producer sends late is stamped with the time before. Between partitions, where messages
        without a key may come again, there is nothing but the stamps.
        """
        number = self._topics[topic]
        self._db.execute(
            """create table seen as
               select *, row_number() over (partition by message order by came, part, off) as nth,
                      count(stream) over (partition by message) as places
                 from (select *, min(at) over (partition by message, part) as came
                         from (select r.*, cast(coalesce(
                                   (select m.seq from message as m
                                     where m.seq = r.seq and m.id = r.id and m.topic = ?),
                                   (select min(m.seq) from message as m
                                     where m.topic = ? and m.id = r.id)) as integer) as message
                                 from record as r))""",
            (number, number),
        )
        self._db.execute("create index seen_message on seen (message)")

    def count_records(self) -> tuple[int, int, int]:
        """Return how many records have a message, came again, and came again without a position."""
        row = self._db.execute(
            """select count(*), coalesce(sum(nth > 1), 0),
                      coalesce(sum(nth > 1 and stream is null), 0)
                 from seen where message is not null"""
        ).fetchone()
        return row[0], row[1], row[2]

    # What is wrong

    def not_found(self, topic: str, *, compacted: bool) -> Iterator[NotFound]:
        """Yield the delivered messages without a record.

        Two messages of one id cannot be told apart where the records have no position: they are
        found if there are as many records.
        """
        number = self._topics[topic]
        if compacted:
            self._db.execute("create index if not exists message_key on message (topic, key, seq)")
        followed = """m.key is not null and exists (select 1 from message as l
                        where l.topic = m.topic and l.key = m.key and l.seq > m.seq)"""
        rows = self._db.execute(
            f"""select m.seq, m.created, m.tombstone, {followed if compacted else "false"},
                       m.standing
                  from message as m
                 where m.topic = ? and m.standing in ({_PASSED})
                   and not exists (select 1 from seen as s where s.message = m.seq)
                   and (select count(*) from message as t where t.topic = m.topic and t.id = m.id)
                     > (select count(*) from message as t cross join seen as s
                         where t.topic = m.topic and t.id = m.id and s.message = t.seq)
                 order by m.seq""",
            (number,),
        )
        for seq, created, tombstone, later, standing in rows:
            yield NotFound(seq, created, bool(tombstone), bool(later), Standing(standing))

    def out_of_order(self, courses: Courses) -> Iterator[Seen]:
        """Yield first records that lie behind a later one of their key, by their positions."""
        lanes = dict(zip(self._lanes.values(), self._lanes, strict=True))
        rows = self._db.execute(
            f"""select m.lane, s.stream, m.key, s.{_SEEN.replace(", ", ", s.")}
                  from seen as s join message as m on m.seq = s.message
                 where s.nth = 1 and s.stream is not null and m.key is not null
                 order by s.part, m.key, s.off"""
        )
        return stragglers(
            (
                ((seen[0], key), (lanes[lane], stream), (seen[3], seen[4]), Seen(*seen))
                for lane, stream, key, *seen in rows
            ),
            lambda course, generation: courses.turn(*course, generation),
        )

    def misplaced(self, current: Collection[int]) -> Iterator[Seen]:
        """Yield records whose position is not their message's, or is not that of the first one."""
        rows = self._db.execute(
            f"""select {_SEEN} from seen as s
                 where {_among(current)} and message is not null
                   and (message <> seq
                        or (stream, batch) <> (select f.stream, f.batch from seen as f
                                                where f.message = s.message and {_among(current)}
                                                order by f.nth limit 1))
                 order by part, off"""
        )
        return (Seen(*row) for row in rows)

    def unknown(self, current: Collection[int], seqs: tuple[int, int]) -> Iterator[Seen]:
        """Yield records without a message whose position lies among the messages of the log."""
        rows = self._db.execute(
            f"""select {_SEEN} from seen
                 where {_among(current)} and message is null and seq between ? and ?
                 order by part, off""",
            seqs,
        )
        return (Seen(*row) for row in rows)

    def repeated(self) -> Iterator[Seen]:
        """Yield records that came again, and not within a piece that was sent again as a whole."""
        firsts = self._db.execute(
            """select part, stream, batch, seq, places > 1, message from seen
                where nth = 1 and stream is not null and message is not null
                order by part, stream, off desc"""
        )
        self._db.execute("create table run (message integer primary key, stream, batch, seq)")
        self._write(
            "insert into run values (?, ?, ?, ?)",
            (
                (*item, *end)
                for item, end in ends_of_runs(
                    ((row[0], row[1]), (row[2], row[3]), bool(row[4]), (row[5], row[1]))
                    for row in firsts
                )
            ),
        )
        rows = self._db.execute(
            f"""select s.stream, s.nth, coalesce(r.batch, s.batch), coalesce(r.seq, s.seq),
                       s.{_SEEN.replace(", ", ", s.")}
                  from seen as s
                  left join run as r on r.message = s.message and r.stream = s.stream
                 where s.stream is not null and s.message is not null
                 order by s.part, s.stream, s.off"""
        )
        return out_of_place(
            (
                (seen[0], stream),
                (seen[3], seen[4]),
                (batch, seq) if nth > 1 else None,
                Seen(*seen),
            )
            for stream, nth, batch, seq, *seen in rows
        )

    def _write(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        self._db.execute("begin")
        self._db.executemany(sql, rows)
        self._db.execute("commit")

    def _one(self, sql: str, *values: object) -> Any:
        return self._db.execute(sql, values).fetchone()[0]


def _among(streams: Collection[int]) -> str:
    return f"stream in ({', '.join(map(str, streams))})"
