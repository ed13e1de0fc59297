"""The cursor and the lease of a term, which are written together."""

from __future__ import annotations

from collections.abc import Callable

from outbox.record import Position
from outbox.relay.caution import Caution
from outbox.relay.observer import Observer
from outbox.relay.settings import RelaySettings
from outbox.relay.settlement import InFlight
from outbox.store.base import Lease, LeaseLost, Store


class Checkpoint:
    """Moves the cursor to what is confirmed, and renews the lease with every write.

    `leased_at`: this process's clock, read before the lease was asked for. Raises LeaseLost and
    DatabaseUnavailable.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        leased_at: float,
        in_flight: InFlight,
        caution: Caution,
        settings: RelaySettings,
        clock: Callable[[], float],
        observer: Observer,
    ) -> None:
        self._store = store
        self._lease = lease
        self._leased_at = leased_at
        self._in_flight = in_flight
        self._caution = caution
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._saved = lease.position
        self._saved_at = leased_at

    @property
    def unsaved(self) -> bool:
        """Return whether more is confirmed than saved."""
        return self._in_flight.confirmed != self._saved

    def check_lease(self) -> None:
        """Raise LeaseLost when our own clock says that the lease may have run out.

        A process that was frozen must not go on sending what its successor has sent already. The
        margin is for what may lie between the two clocks' readings.
        """
        if self._clock() - self._leased_at > self._settings.lease_s * 0.75:
            raise LeaseLost(self._lease.relay)

    def save_if_due(self) -> None:
        """Move the cursor and renew the lease now and then."""
        since = self._clock() - self._saved_at
        unsaved = self.unsaved
        idle = unsaved and not self._in_flight
        if (
            since >= self._settings.lease_s / 4
            or (unsaved and since >= self._settings.save_interval_s)
            or (idle and since >= self._settings.idle_save_interval_s)
            or self._forgives
        ):
            self.save()

    def save(self) -> None:
        """Move the cursor and renew the lease; forget the relays that died here, once it may."""
        forgives = self._forgives
        write = self._store.forgive if forgives else self._store.save
        self.move(lambda position, lease_s: write(self._lease, position, lease_s))
        if forgives:
            self._caution.forget()

    @property
    def _forgives(self) -> bool:
        return self._caution.forgives(moved=self._in_flight.confirmed != self._lease.position)

    def move(self, write: Callable[[Position, float], None]) -> None:
        """Have `write` write something along with the position, and the lease in seconds."""
        position = self._in_flight.confirmed
        now = self._clock()
        with self._observer.waiting("database"):
            write(position, self._settings.lease_s)
        self._leased_at = self._saved_at = now
        self._saved = position
