"""How long a server may be silent before it counts as gone.

TCP notices a host that has vanished, but not a proxy, a load balancer or a pooler on the way that
takes every byte and passes none on, nor a server that is frozen. To a client each of these looks
like a server that is busy.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

Result = TypeVar("Result")

_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)

#: A statement gets this long at the last, in seconds.
LONGEST_S = 120.0

#: After this long without trouble, in seconds, a server is expected to answer as soon as ever.
_FORGOTTEN_AFTER_S = 600.0


class Patience:
    """How long to wait for the next word, shared by the connections that follow each other.

    It doubles each time that it runs out: a statement that takes long must be given the time at
    last, or it would be begun again and again and never end.
    """

    def __init__(self, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s = self._seconds = first_s
        self._clock = clock
        self._ran_out_at = float("-inf")

    @property
    def seconds(self) -> float:
        """Return how long to wait now."""
        if self._clock() - self._ran_out_at > _FORGOTTEN_AFTER_S:
            return self._first_s
        return self._seconds

    def ran_out(self) -> None:
        """Be more patient from now on."""
        self._seconds = max(self._first_s, min(self.seconds * 2, LONGEST_S))
        self._ran_out_at = self._clock()


class ImpatientConnection(psycopg.Connection[TupleRow]):
    """Gives up a server that is silent for too long, and closes itself then.

    Without `patience` it waits for ever, as any connection does.
    """

    patience: Patience | None = None
    #: Why it closed itself. A pipeline that ends on a closed connection says only that it is.
    silence: psycopg.OperationalError | None = None
    _least_s = 0.0

    @contextmanager
    def expecting_long(self, seconds: float) -> Iterator[None]:
        """Let the server be silent for so long, whatever the patience."""
        before, self._least_s = self._least_s, seconds
        try:
            yield
        finally:
            self._least_s = before

    def wait(self, gen: PQGen[Result], *arguments: Any, **more: Any) -> Result:
        """Wait for what psycopg waits for, with all of its statements."""
        if self.patience is not None:
            gen = self._hearing(gen, self.patience)
        return super().wait(gen, *arguments, **more)

    def _hearing(self, gen: PQGen[Result], patience: Patience) -> PQGen[Result]:
        """Pass on what happens on the socket; raise OperationalError when nothing does."""
        heard_at: float | None = None  # most answers are there before anybody looks at a clock
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard_at = None
                elif heard_at is None:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > max(patience.seconds, self._least_s):
                    self._give_up(patience)
                wanted = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result

    def results_of(self, query: str) -> list[PGresult]:
        """Return what each statement of a query yields, as text.

        Past psycopg's cursors, which take three times as long: an idle relay asks 20 times a
        second, and that is most of what it costs. Raises what they would raise.
        """
        return self._results(lambda: self.pgconn.send_query(query.encode()))

    def results_of_prepared(self, name: str) -> list[PGresult]:
        """Return what a prepared statement without parameters yields, as text."""
        return self._results(lambda: self.pgconn.send_query_prepared(name.encode(), None))

    def _results(self, send: Callable[[], None]) -> list[PGresult]:
        try:
            send()
            self.pgconn.flush()
            results = list(iter(self._result, None))
        except BaseException:
            self.pgconn.finish()  # nobody would take the answer that is still to come
            raise
        for result in results:
            if result.status not in _GOOD:
                raise error_from_result(result, encoding="utf-8")
        return results

    def _result(self) -> PGresult | None:
        """Return the next result of what was sent; wait for it, but not for ever."""
        pgconn, patience = self.pgconn, self.patience
        while pgconn.is_busy():
            wait_s = None if patience is None else max(patience.seconds, self._least_s)
            if not _readable(pgconn.socket, wait_s) and patience is not None:
                self._give_up(patience)
            pgconn.consume_input()
        return pgconn.get_result()

    def _give_up(self, patience: Patience) -> None:
        silent_s = max(patience.seconds, self._least_s)
        patience.ran_out()
        self.pgconn.finish()  # to say goodbye would be to wait again
        self.silence = psycopg.OperationalError(f"the server has not answered for {silent_s:g} s")
        raise self.silence


def _readable(socket: int, wait_s: float | None) -> bool:
    """Return whether something can be read within the time."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([socket], [], [], wait_s)[0])
    poll = select.poll()  # a third of what a selector takes
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(None if wait_s is None else wait_s * 1000))
