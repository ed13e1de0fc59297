"""The term of a relay that has one stream, for tests that look into the middle of it."""

from __future__ import annotations

from outbox.relay.relay import Relay
from outbox.relay.term import Term


def begin_term(relay: Relay) -> Term:
    """Let a relay take the only lane, and send nothing yet."""
    relay._reach_database(None)
    relay._service.share_if_due(relay._owner)
    (term,) = relay._service.terms
    return term


def die(relay: Relay) -> None:
    """Let a relay forget its term without giving anything back, as if it were killed."""
    relay._service._seats.clear()
