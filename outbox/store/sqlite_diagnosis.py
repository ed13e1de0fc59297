"""What `doctor` asks of a SQLite file: opened read-only, and never a whole table."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from outbox.errors import ConfigurationError, DatabaseUnavailable, SchemaMissing
from outbox.schema.check import Finding, check_sqlite
from outbox.schema.version import Component
from outbox.store.base import Blocker, RelayStatus
from outbox.store.diagnosis import SAMPLE, Cursor, LaneUse, Sequence, Server, Skew, TopicUse
from outbox.store.held import HeldOverview
from outbox.store.pauses import Pause
from outbox.store.scheduling import ScheduleStatus
from outbox.store.sqlite import SQLiteStore

#: A file that somebody writes to for longer than this, in seconds, is not waited for.
_BUSY_S = 2.0

_WEIGHT = """coalesce(length(cast(key as blob)), 0) + coalesce(length(payload), 0)
             + coalesce(length(headers), 0) + coalesce(length(type), 0)
             + coalesce(length(content_type), 0)"""


class SQLiteDiagnosis(SQLiteStore):
    """Implements Diagnosis, and what can be asked of SQLite only."""

    def connect(self) -> None:
        """Open the file, unless it is open; the tables need not exist."""
        if self._open is not None:
            return
        path = Path(self._path)
        if not path.parent.is_dir():
            raise ConfigurationError(f"the directory of the SQLite file {path} does not exist")
        if not path.exists():
            raise SchemaMissing(
                f"the SQLite file {path} does not exist; run `outbox-relay migrate`"
            )
        try:
            self._open = _opened(path)
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(f"cannot open the SQLite file {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(f"{path} is no SQLite file: {error}") from error

    @contextmanager
    def _looking(self) -> Iterator[sqlite3.Connection]:
        self.connect()
        with self._translated() as connection:
            yield connection

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._looking() as connection:
            return connection.execute(sql, values).fetchall()

    def server(self) -> Server:
        """Return what the library is, and whether the file can be written."""
        return Server(
            product="SQLite",
            version=sqlite3.sqlite_version,
            number=_number(sqlite3.sqlite_version),
            writable=self._obstacle(),
            pooled=False,
        )

    def _obstacle(self) -> str | None:
        """Return why the file cannot be written: WAL makes files beside it."""
        for path in (Path(self._path), Path(self._path).absolute().parent):
            if path.exists() and not os.access(path, os.W_OK):
                return f"this user may not write to {path}"
        return None

    def clock(self) -> Skew:
        """Return nothing of interest: the library's clock is the process's."""
        return Skew(0.0, 0.0)

    def journal_mode(self) -> str:
        """Return how the file is written."""
        return str(self._rows("pragma journal_mode")[0][0])

    def has(self, relation: str) -> bool:
        """Return whether there is a table of ours, by its plain name."""
        name = self._names.prefix + relation
        return bool(
            self._rows("select 1 from sqlite_master where type = 'table' and name = ?", name)
        )

    def drift(self, component: Component) -> list[Finding]:
        """Return how the tables differ from what they should be."""
        with self._looking() as connection:
            return check_sqlite(connection, self._names, only=component)

    def sequence(self) -> Sequence:
        """Return where the numbers of messages come from."""
        log = self._names["outbox_message"]
        ((top,),) = self._rows(f"select coalesce(max(seq), 0) from {log}")
        drawn = self._rows("select seq from sqlite_sequence where name = ?", log.strip('"'))
        return Sequence(last_value=drawn[0][0] if drawn else 0, top=top)

    def cursors(self) -> list[Cursor]:
        """Return what the relay names remember."""
        now = time.time()
        rows = self._rows(
            f"""select relay, lane, after_seq, moved_at, lease_until, owner, cluster_id
                  from {self._names["outbox_cursor"]} order by relay, lane"""
        )
        return [
            Cursor(
                relay=relay,
                lane=lane,
                restored=False,
                has_plan=True,
                bound=after,
                transactions_ahead=0,
                idle_s=now - moved_at,
                lease_s=None if lease_until is None else lease_until - now,
                owner=owner,
                cluster_id=cluster_id,
            )
            for relay, lane, after, moved_at, lease_until, owner, cluster_id in rows
        ]

    def topics(self) -> list[TopicUse]:
        """Return the topics of recent and waiting messages."""
        log, cursor = self._names["outbox_message"], self._names["outbox_cursor"]
        columns = f"seq, id, topic, key, {_WEIGHT} as weight"
        rows = self._rows(
            f"""with position as (select min(after_seq) as least from {cursor})
                select topic, count(*), sum(seq > least), max(weight), id, sum(key is null)
                  from (select * from (select {columns} from {log}
                                        where seq > (select least from position)
                                        order by seq limit {SAMPLE})
                        union
                        select * from (select {columns} from {log}
                                        order by seq desc limit {SAMPLE})), position
                 group by topic order by topic"""
        )
        return [TopicUse(*row) for row in rows]

    def progress(self) -> list[RelayStatus]:
        """Return how far every relay name is."""
        with self._looking():
            return self.status()

    def lane_use(self) -> LaneUse:
        """Return the lanes, and which of them messages name."""
        with self._looking():
            return LaneUse(tuple(self.lanes()), self.other_lanes(0)[0])

    def held_of(self, relays: Iterable[str]) -> dict[str, HeldOverview]:
        """Return what is held of each of these relay names."""
        with self._looking():
            return {relay: self.held_admin().overview(relay) for relay in relays}

    def waits(self) -> ScheduleStatus:
        """Return how much is scheduled, and when the first of it is due."""
        with self._looking():
            return self.schedule().status()

    def pauses_in_force(self) -> tuple[list[Pause], float]:
        """Return every pause, and the time now."""
        with self._looking():
            return self.pauses().in_force(), time.time()

    def holders(self) -> list[Blocker]:
        """Return nothing: an open transaction keeps other writers out, and holds no messages."""
        return self.blockers()


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
    )
    try:
        connection.execute("pragma schema_version")  # reads the file for the first time
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _number(version: str) -> int:
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return major * 1_00_00 + minor * 1_00 + patch
