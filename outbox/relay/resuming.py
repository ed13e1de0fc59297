"""Where a term begins: at the later of what the database and, exactly once, Kafka knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from outbox.errors import ConfigurationError
from outbox.publishers.base import Publisher
from outbox.record import EXACTLY_ONCE, DeliveryMode, Mark
from outbox.store.base import Lease, Store

logger = logging.getLogger("outbox.relay")

#: How long to try to shut the one before out, in seconds. That may outlast a short lease: of two
#: that do it at the same time each shuts the other out, and neither repeats anything.
_PATIENCE_S = 10.0


def check_cluster(store: Store, lease: Lease, cluster_id: str) -> None:
    """Refuse to publish to another cluster than this relay name did before."""
    known = lease.cluster_id
    if known and cluster_id and known != cluster_id:
        raise ConfigurationError(
            f"relay {lease.relay!r} has published to Kafka cluster {known!r}, and this is"
            f" {cluster_id!r}. If that is meant, run `outbox-relay relays rebind {lease.relay}`"
        )
    if cluster_id and not known:
        store.bind_cluster(lease, cluster_id)


def is_claimed(lease: Lease, delivery: DeliveryMode) -> bool:
    """Return whether Kafka may know a later position, or is to keep one from now on."""
    return EXACTLY_ONCE in (lease.delivery, delivery)


def identity(lease: Lease) -> str:
    """Return the name under which Kafka knows who publishes this stream, and how far it has come.

    Neither log nor relay name alone would do: a fail-over renews the log's id, and must not let the
    zombie of before go on; two services may each call their relay `default`. The origin stays the
    same until a rebase, which whoever works with a restored copy has to do, and begins anew with a
    relay name that was forgotten and made again.
    """
    return f"outbox-relay.{lease.origin}.{lease.relay}.{lease.lane}"


def claim(publisher: Publisher, lease: Lease, delivery: DeliveryMode) -> list[Mark]:
    """Shut out whoever published exactly once before; return how far it came, by what Kafka knows.

    In this order, for only then can nothing be added to what Kafka knows.
    """
    if delivery == EXACTLY_ONCE and not publisher.transactional:
        raise ConfigurationError(
            f"{type(publisher).__name__} does not publish in transactions, so it cannot deliver"
            " exactly once; use TransactionalPublisher of outbox.publishers.transactional"
        )
    kept = publisher.claim(identity(lease), _PATIENCE_S)
    marks = [mark for mark in map(Mark.parse, kept) if mark is not None]
    ours = [mark for mark in marks if mark.log_id == lease.log_id]
    if lease.delivery == EXACTLY_ONCE and not ours:
        _say_unknown(lease, marks)
    return ours


def resume(
    store: Store, lease: Lease, marks: Sequence[Mark], delivery: DeliveryMode, lease_s: float
) -> Lease:
    """Go on from the latest position that is known, and renew the lease.

    Raises LogInconsistent where Kafka knows what this database does not, LeaseLost.
    """
    latest = max(marks, key=lambda mark: mark.position, default=None)
    position = lease.position
    if latest is not None and latest.position > position:
        store.check_mark(lease, latest)
        position = latest.position
    return store.adopt(lease, position, delivery, lease_s)


def _say_unknown(lease: Lease, marks: Sequence[Mark]) -> None:
    if marks:
        logger.warning(
            "Kafka knows how far relay %s has come in the log as it was before a fail-over or "
            "restore (%s), and not in this one: it goes on from the database's own position. What "
            "was delivered and not saved there is repeated, nothing is lost",
            lease.relay,
            marks[0].log_id,
            extra={"event": "relay.position_of_another_log"},
        )
    else:
        logger.info(
            "Kafka keeps no position of relay %s: it goes on from the database's own",
            lease.relay,
            extra={"event": "relay.position_missing"},
        )
