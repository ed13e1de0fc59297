"""What is examined: an installation, asked once for each thing that several checks look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from outbox.database import require_psycopg
from outbox.doctor.check import NotChecked
from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from outbox.config.settings import Settings
    from outbox.publishers.diagnosis import BrokerDiagnosis, Cluster, TopicState
    from outbox.store.base import RelayStatus
    from outbox.store.diagnosis import Cursor, Diagnosis, LaneUse, Sequence, Table, TopicUse
    from outbox.store.held import HeldOverview
    from outbox.store.postgresql.diagnosis import PostgreSQLDiagnosis
    from outbox.store.sqlite_diagnosis import SQLiteDiagnosis

Answer = TypeVar("Answer")

_GIVE_BROKER = (
    "give -X bootstrap.servers=HOST:PORT, OUTBOX_KAFKA_BOOTSTRAP_SERVERS, or"
    ' "bootstrap.servers" in the table [kafka] of outbox.toml'
)


class Patient:
    """One installation: its settings, its database, its broker.

    `older_than_s`: how long a transaction may be open before it is worth a word. `writer_role` and
    `relay_role`: whose rights to look at; the relay's is the role of the connection by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        older_than_s: float = 60.0,
        writer_role: str | None = None,
        relay_role: str | None = None,
    ) -> None:
        self.settings = settings
        self.older_than_s = older_than_s
        self.writer_role = writer_role
        self.relay_role = relay_role
        #: The check that found the database away; nobody waits for it again.
        self.away: str | None = None
        self._database = _diagnosis(settings)
        self._answers: dict[str, object] = {}

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    @property
    def database(self) -> Diagnosis:
        """Return what can be asked of every database. Raises NotChecked once it was away."""
        if self.away is not None:
            raise NotChecked(f"the database is away (see {self.away})")
        return self._database

    @property
    def postgresql(self) -> PostgreSQLDiagnosis:
        """Return what can be asked of PostgreSQL only."""
        return cast("PostgreSQLDiagnosis", self.database)

    @property
    def sqlite(self) -> SQLiteDiagnosis:
        """Return what can be asked of SQLite only."""
        return cast("SQLiteDiagnosis", self.database)

    def sequence(self) -> Sequence:
        """Return where the numbers of messages come from."""
        return self._once("sequence", self.database.sequence)

    def cursors(self) -> list[Cursor]:
        """Return what the relay names remember."""
        return self._once("cursors", self.database.cursors)

    def lanes(self) -> list[RelayStatus]:
        """Return how far every relay name is."""
        return self._once("lanes", self.database.progress)

    def held(self) -> dict[str, HeldOverview]:
        """Return what is held of every relay name."""
        names = sorted({cursor.relay for cursor in self.cursors()})
        return self._once("held", lambda: self.database.held_of(names))

    def lane_use(self) -> LaneUse:
        """Return the lanes of the log, and which of them messages name."""
        return self._once("lane use", self.database.lane_use)

    def tables(self) -> list[Table]:
        """Return our tables."""
        return self._once("tables", self.postgresql.tables)

    def topics_in_use(self) -> list[TopicUse]:
        """Return the topics of recent and waiting messages."""
        return self._once("topics in use", self.database.topics)

    def broker(self) -> BrokerDiagnosis:
        """Return whom to ask about the broker. Raises NotChecked where none is given."""
        return self._once("broker", self._broker)

    def _broker(self) -> BrokerDiagnosis:
        from outbox.publishers.diagnosis import BrokerDiagnosis

        try:
            properties = self.settings.kafka_properties()
        except ConfigurationError as error:
            if str(error).startswith("no broker"):
                raise NotChecked("no broker is given", _GIVE_BROKER) from error
            raise
        return BrokerDiagnosis(properties, min(self.settings.connect_timeout, 10.0))

    def cluster(self) -> Cluster:
        """Return the cluster. Raises NotChecked where none is given, BrokerSilent if it is away."""
        return self._once("cluster", self.broker().reach)

    def topics(self) -> list[tuple[TopicUse, TopicState]]:
        """Return the topics in use, with what the broker says of each."""
        return self._once("topics", self._topics)

    def _topics(self) -> list[tuple[TopicUse, TopicState]]:
        from outbox.errors import BrokerUnavailable

        try:
            self.cluster()
        except BrokerUnavailable as error:
            raise NotChecked("the broker cannot be reached (see broker)") from error
        in_use = self.topics_in_use()
        if not in_use:
            raise NotChecked("the log has no messages, so no topic is in use yet")
        states = self.broker().topics(use.topic for use in in_use)
        return list(zip(in_use, states, strict=True))

    def _once(self, name: str, ask: Callable[[], Answer]) -> Answer:
        """Ask once; also a failure is an answer, which may have taken its time to come."""
        if name not in self._answers:
            try:
                self._answers[name] = ask()
            except Exception as error:  # noqa: BLE001 - raised again below, as often as asked
                self._answers[name] = _Raised(error)
        answer = self._answers[name]
        if isinstance(answer, _Raised):
            raise answer.error
        return cast("Answer", answer)


class _Raised:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _diagnosis(settings: Settings) -> Diagnosis:
    url = settings.require_database()
    if url.dialect == "sqlite":
        from outbox.store.sqlite_diagnosis import SQLiteDiagnosis

        return SQLiteDiagnosis(url.path, settings.names)
    require_psycopg()
    from outbox.store.postgresql.diagnosis import PostgreSQLDiagnosis

    return PostgreSQLDiagnosis(url, settings.names, password_callback=settings.password_callback())
