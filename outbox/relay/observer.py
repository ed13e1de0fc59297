"""The seam to whoever watches a relay, for its health and its metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

from outbox.record import Page, Record

_NOTHING = nullcontext()


class Observer(Protocol):
    """Is told what a relay does, in its thread and in the midst of its work: must be quick, and
    must not raise. Whole pages are told of, never single messages."""

    def waiting(self, server: Literal["database", "broker"]) -> AbstractContextManager[None]:
        """Return the context of a call that may wait for a server; one may be within another.

        Every turn of the loop makes such calls, so they are its heartbeat too.
        """

    def connected(self) -> None:
        """The database was reached, and its tables fit."""

    def began_term(self, lane: str, epoch: int) -> None:
        """This process holds a lane, or a shard of one."""

    def ended_term(self, lane: str) -> None:
        """This process does not hold it any more."""

    def stands_by(self) -> None:
        """Other processes hold all lanes."""

    def lost_lease(self) -> None:
        """Another process has taken a lane."""

    def failed(self, cause: str) -> None:
        """A term ended early, or could not begin: no "database", "broker" or "topic"."""

    def refused(self) -> None:
        """The broker will not take a message."""

    def held(self, states: Mapping[str, int]) -> None:
        """So many messages were put aside, by state."""

    def retried(self, delivered: Sequence[Record], failed: Mapping[str, int]) -> None:
        """Held messages were tried again: these arrived, and so many did not, by state."""

    def closed(self, topics: Collection[str]) -> None:
        """Messages wait for these topics, and for no others; told also when nothing changed."""

    def fenced(self) -> None:
        """The broker refused a transaction, since another process had begun its own."""

    def troubled(self, cause: str, reason: str) -> None:
        """The relay waits for something: "database", "broker" or "topic"."""

    def recovered(self) -> None:
        """It waits no more; told also when it did not."""

    def limited(self, limited: bool) -> None:
        """More messages wait than the limit of the rate lets go, or they do so no more."""

    def paused(self, streams: Collection[str]) -> None:
        """These are paused, and no others; told also when nothing changed."""

    def progressed(self) -> None:
        """Messages were acknowledged, or there are none to send."""

    def sent(self, page: Page) -> None:
        """A page was handed to the publisher."""

    def settled(self, page: Page, seconds: float) -> None:
        """Every message of a page is acknowledged, so many seconds after it was handed over."""


class Unobserved:
    """Nobody watches; implements Observer."""

    def waiting(self, server: Literal["database", "broker"]) -> AbstractContextManager[None]:  # noqa: ARG002 - it is all the same
        """Return a context that does nothing."""
        return _NOTHING

    def connected(self) -> None: ...
    def began_term(self, lane: str, epoch: int) -> None: ...
    def ended_term(self, lane: str) -> None: ...
    def stands_by(self) -> None: ...
    def lost_lease(self) -> None: ...
    def failed(self, cause: str) -> None: ...
    def refused(self) -> None: ...
    def held(self, states: Mapping[str, int]) -> None: ...
    def retried(self, delivered: Sequence[Record], failed: Mapping[str, int]) -> None: ...
    def closed(self, topics: Collection[str]) -> None: ...
    def fenced(self) -> None: ...
    def troubled(self, cause: str, reason: str) -> None: ...
    def recovered(self) -> None: ...
    def limited(self, limited: bool) -> None: ...
    def paused(self, streams: Collection[str]) -> None: ...
    def progressed(self) -> None: ...
    def sent(self, page: Page) -> None: ...
    def settled(self, page: Page, seconds: float) -> None: ...
