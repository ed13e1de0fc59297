"""The real relay, run into memory.

Of committed messages with a store of the database. Of a transaction's own messages with a store
that holds what the transaction sees: no other connection could see it, and nothing of a lease or a
cursor may outlive the test.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from outbox.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable, OutboxError
from outbox.names import Names
from outbox.publishers.memory import PublishedMessage
from outbox.record import DeliveryMode, Mark, Page, Position, Record
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.base import Lease, LogReader, Slice, Store, Stream
from outbox.store.held import HeldStore, Hold
from outbox.store.opening import open_store
from outbox.store.pauses import Pauses
from outbox.store.scheduling import NothingScheduled, Schedule
from outbox.testing.faults import Faults
from outbox.testing.log import Row
from outbox.testing.reading import Query, Rows, Source, url_of


def relay_committed(
    source: Source, relay: str, faults: Faults | None, timeout_s: float
) -> list[PublishedMessage]:
    """Relay what is committed and not delivered yet; the cursor moves."""
    try:
        url = url_of(source.origin)
    except ConfigurationError as error:
        error.add_note("Or pass drain() the session or connection itself, which is only read.")
        raise
    try:
        return _relay(open_store(url, source.names), relay, faults, timeout_s)
    except DatabaseUnavailable as error:
        if "locked" in str(error):
            error.add_note(
                "Is a transaction of the test still open? Commit it, or pass drain() its session "
                "or connection, which is only read."
            )
        raise


def relay_rows(
    rows: Sequence[Row],
    log_id: str,
    batch: int,
    relay: str,
    faults: Faults | None,
    timeout_s: float,
) -> list[PublishedMessage]:
    """Relay these rows as one batch, and leave no trace."""
    records = [row.record for row in rows]
    return _relay(_StoreOfRows(records, log_id, batch), relay, faults, timeout_s)


def log_id_query(names: Names) -> Query:
    """Ask for the identity of the log, which is in every position."""
    meta = names["outbox_meta"]
    return Query(f"select cast(log_id as text) from {meta}", f"select log_id from {meta}")


def log_id_of(rows: Rows) -> str:
    """Return the identity that a `log_id_query` answered with."""
    return str(rows[0][0])


def _relay(
    store: Store, name: str, faults: Faults | None, timeout_s: float
) -> list[PublishedMessage]:
    published: list[PublishedMessage] = []
    publishers = faults or Faults()
    settings = RelaySettings(
        # A lease that ran out while nothing is acknowledged would look like another relay's doing.
        name=name,
        connect_timeout_s=timeout_s,
        lease_s=10.0 + 2 * timeout_s,
        retry=None,  # a test wants to know what cannot be sent
    )
    with Relay(store, partial(publishers.publisher, published), settings) as relay:
        _run_until_done(relay, name, time.monotonic() + timeout_s)
    return published


def _run_until_done(relay: Relay, name: str, deadline: float) -> None:
    """Begin again when the broker failed, as `Relay.run` does."""
    while True:
        try:
            done = relay.run_once()
        except BrokerUnavailable:
            if time.monotonic() >= deadline:
                raise
            continue
        if done.held_by_another:
            raise OutboxError(
                f"another process works for relay {name!r} on this database, so drain() cannot; "
                "stop it, or give the test a relay name of its own: `outbox-relay relays create`"
            )
        return


class _StoreOfRows:
    """Implements Store for rows that are in memory; how far it is dies with it."""

    def __init__(self, records: Sequence[Record], log_id: str, batch: int) -> None:
        self._records = records
        self._log_id = log_id
        self._position = Position(batch, 0)

    def connect(self) -> None:
        """Do nothing: what there is to read has been read."""

    def close(self) -> None:
        """Do nothing."""

    def acquire(self, relay: str, lane: str, owner: str, lease_s: float) -> Lease:  # noqa: ARG002 - the seam's signature
        """Give the lane to whoever asks."""
        return Lease(relay, lane, 1, self._position, self._log_id, None)

    def reader(self, lease: Lease) -> LogReader:
        """Return a reader of what is not delivered yet."""
        return _ReaderOfRows(self._records, lease.position)

    def check_mark(self, lease: Lease, mark: Mark) -> None:
        """Do nothing: nobody keeps positions of these rows."""

    def adopt(
        self,
        lease: Lease,
        position: Position,
        delivery: DeliveryMode,
        lease_s: float,  # noqa: ARG002 - the seam's signature
    ) -> Lease:
        """Go on from another position."""
        self._position = position
        return replace(lease, position=position, delivery=delivery)

    def save(self, lease: Lease, position: Position, lease_s: float) -> None:  # noqa: ARG002 - the seam's signature
        """Remember how far it is, for the next term."""
        self._position = position

    def suspect(self, lease: Lease, position: Position, lease_s: float, seq: int) -> None:  # noqa: ARG002 - the seam's signature
        """Remember how far it is, for the next term."""
        self._position = position

    def forgive(self, lease: Lease, position: Position, lease_s: float) -> None:  # noqa: ARG002 - the seam's signature
        """Remember how far it is, for the next term."""
        self._position = position

    def acquit(self, lease: Lease, seq: int) -> None:
        """Do nothing: nobody has died."""

    def release(self, lease: Lease, position: Position) -> None:  # noqa: ARG002 - the seam's signature
        """Remember how far it is, for the next term."""
        self._position = position

    def retire(self, lease: Lease) -> None:
        """Do nothing: the only stream stays."""

    def paused(self, relay: str) -> Pauses:
        """Return that nothing is."""
        return Pauses(relay)

    def streams(self, relay: str) -> list[Stream]:  # noqa: ARG002 - the seam's signature
        """Return the only one: the rows are in the order of the log, whatever their lanes."""
        return [Stream("default", None, expired=True, priority=0)]

    def processes(self, relay: str, within_s: float) -> list[str]:  # noqa: ARG002 - the seam's signature
        """Return none: there is nobody to share with."""
        return []

    def bind_cluster(self, lease: Lease, cluster_id: str) -> None:
        """Do nothing: there is no cluster."""

    def moment(self) -> str:
        """Return nothing."""
        return ""

    def horizon(self) -> str:
        """Return the highest number."""
        return str(self._records[-1].seq if self._records else 0)

    def delivered(self, relay: str, horizon: str) -> bool:  # noqa: ARG002 - the seam's signature
        """Return whether everything up to the number `horizon` is delivered."""
        return self._position.seq >= int(horizon)

    def heartbeat(self, relay: str, process: str, state: str) -> None:
        """Do nothing: nobody asks."""

    def forget_process(self, relay: str, process: str) -> None:
        """Do nothing: nobody asks."""

    def held(self) -> HeldStore:
        """Return what lets expired messages go: this relay is told to hold nothing else."""
        return cast("HeldStore", _Expired(self))

    def prune(self, *, dry_run: bool = False) -> list[Slice]:  # noqa: ARG002 - the seam's signature
        """Remove nothing: the rows are the test's."""
        return []

    def schedule(self) -> Schedule:
        """Return an empty one: the rows are what is in the log."""
        return NothingScheduled()


class _Expired:
    """The only part of HeldStore that is used where nothing is held but what has expired."""

    def __init__(self, store: _StoreOfRows) -> None:
        self._store = store

    def hold(self, lease: Lease, position: Position, lease_s: float, _: Sequence[Hold]) -> None:
        """Move on without them: the rows are the test's."""
        self._store.save(lease, position, lease_s)


class _ReaderOfRows:
    """Implements LogReader: one batch, in the order of the log."""

    def __init__(self, records: Sequence[Record], position: Position) -> None:
        self._batch = position.batch
        self._left = [record for record in records if record.seq > position.seq]

    @property
    def ended(self) -> bool:
        """Return False: more rows may come in another term."""
        return False

    @property
    def nothing_at(self) -> None:
        """Return None."""
        return

    @property
    def lanes_changed(self) -> bool:
        """Return False: there is one lane."""
        return False

    def receive(self) -> None:
        """Do nothing: all of it is here."""

    def read(self, max_rows: int, max_bytes: int) -> Page | None:
        """Return the next page, or None."""
        taken: list[Record] = []
        weight = 0
        while self._left and len(taken) < max_rows and weight < max_bytes:
            taken.append(self._left.pop(0))
            weight += taken[-1].total
        return Page(self._batch, taken, Position(self._batch, taken[-1].seq)) if taken else None
