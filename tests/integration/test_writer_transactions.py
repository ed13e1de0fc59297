"""Which transactions `add` takes, and what it refuses with which words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from outbox import ConfigurationError, Message, NotInTransaction, Outbox
from outbox.migrations import migrate
from tests.integration.writing import Database

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = Outbox()


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int | None] = mapped_column(ForeignKey("customer.id"))


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Give a database of each kind that has a log and the application's tables."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/log.db"
    else:
        url = request.getfixturevalue("postgresql_url")
    migrate(url)
    made = Database(url)
    Base.metadata.create_all(made.engine())
    return made


@pytest.fixture
def postgresql(postgresql_url: str) -> Database:
    """Give a PostgreSQL that has a log."""
    migrate(postgresql_url)
    return Database(postgresql_url)


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    """Give a SQLite file that has a log."""
    url = f"sqlite:///{tmp_path}/log.db"
    migrate(url)
    return Database(url)


def refusal(transaction: object) -> str:
    """Return the sentence of the refusal, which `add` and `add_all` give alike."""
    sentences = []
    for write in (
        lambda: EVENTS.add(transaction, "orders", b""),
        lambda: EVENTS.add_all(transaction, [Message("orders", b"")]),
    ):
        with pytest.raises(NotInTransaction) as caught:
            write()
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    return sentences[0]


def test_an_autocommit_session_is_refused_and_nothing_is_written(database: Database) -> None:
    """Though in_transaction() is true; the pending order is not flushed either."""
    with Session(database.engine(isolation_level="AUTOCOMMIT")) as session:
        session.add(Order(id=1))

        assert "the connection is in AUTOCOMMIT" in refusal(session)

        assert session.in_transaction()
        session.expunge_all()
    assert database.rows() == []
    with database.engine().connect() as connection:
        assert connection.exec_driver_sql("select count(*) from orders").scalar() == 0


def test_an_autocommit_connection_is_refused_in_whatever_way_it_became_one(
    database: Database,
) -> None:
    """By the engine, by options of the engine or of the connection, begun or not."""
    plain = database.engine()
    by_engine = database.engine(isolation_level="AUTOCOMMIT")
    by_option = plain.execution_options(isolation_level="AUTOCOMMIT")
    for engine in (by_engine, by_option):
        with engine.connect() as connection:
            refusal(connection)
            assert not connection.in_transaction()
        with engine.begin() as connection:
            refusal(connection)
    with plain.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        refusal(connection)
    with Session(plain) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        refusal(session)

    assert database.rows() == []


def test_begin_by_hand_in_autocommit_is_a_transaction(postgresql: Database) -> None:
    """The driver's state decides."""
    with postgresql.engine(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("begin")
        EVENTS.add(connection, "orders", b"")
        connection.exec_driver_sql("commit")
        refusal(connection)

    assert postgresql.topics() == ["orders"]


def test_a_session_without_autobegin_must_have_begun(database: Database) -> None:
    """It says so itself; here the sentence says what to do."""
    with Session(database.engine(), autobegin=False) as session:
        assert "Call session.begin() first" in refusal(session)
        with session.begin():
            EVENTS.add(session, "orders", b"")

    assert database.topics() == ["orders"]


def test_an_autocommit_connection_of_psycopg_is_refused(postgresql: Database) -> None:
    """Unless a transaction was opened on it."""
    with psycopg.connect(postgresql.url, autocommit=True) as connection:
        assert "Open one: `with connection.transaction():`" in refusal(connection)

        with connection.transaction():
            EVENTS.add(connection, "in-a-block", b"")
        refusal(connection)
        connection.execute("begin")
        EVENTS.add(connection, "by-hand", b"")
        connection.execute("commit")
        refusal(connection)

    assert postgresql.topics() == ["in-a-block", "by-hand"]


def test_a_pipeline_outside_a_transaction_is_refused(postgresql: Database) -> None:
    """Its statements are committed together, without the caller's commit."""
    with psycopg.connect(postgresql.url, autocommit=True) as connection, connection.pipeline():
        refusal(connection)
        connection.execute("select 1")
        refusal(connection)

    assert postgresql.rows() == []


def test_a_pool_of_psycopg_gives_connections(postgresql: Database) -> None:
    """Its connections commit at the end of the block."""
    with psycopg_pool.ConnectionPool(postgresql.url, min_size=1) as pool:
        with pool.connection() as connection:
            EVENTS.add(connection, "orders", b"")
        with pytest.raises(TypeError, match="enter it and pass what `with … as` gives"):
            EVENTS.add(pool.connection(), "orders", b"")
        with pytest.raises(TypeError, match=r"pass the connection of `with pool\.connection\(\)"):
            EVENTS.add(pool, "orders", b"")

    assert postgresql.topics() == ["orders"]


def test_an_autocommit_connection_of_sqlite3_is_refused(sqlite: Database) -> None:
    """Unless a transaction was begun on it."""
    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as connection:
        assert 'Begin one: connection.execute("BEGIN")' in refusal(connection)

        connection.execute("BEGIN")
        EVENTS.add(connection, "orders", b"")
        connection.execute("COMMIT")
        refusal(connection)

    assert sqlite.topics() == ["orders"]


def test_the_recipe_for_real_transactions_in_sqlite_works(sqlite: Database) -> None:
    """There the driver is in autocommit, and SQLAlchemy's events begin."""
    engine = sqlite.engine()

    @event.listens_for(engine, "connect")
    def _no_begin_by_the_driver(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    with engine.connect() as connection:
        EVENTS.add(connection, "first", b"")
        connection.commit()
    with Session(engine) as session:
        EVENTS.add(session, "second", b"")
        session.commit()

    assert sqlite.topics() == ["first", "second"]


def _wrong() -> Iterator[tuple[str, Callable[[ExitStack], object], str]]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    async_engine = create_async_engine("sqlite+aiosqlite://")
    yield "SessionTransaction", lambda s: s.enter_context(Session(engine).begin()), "the session it"
    yield "RootTransaction", lambda s: s.enter_context(engine.connect()).begin(), "the connection i"
    yield "Engine", lambda _: engine, "`with engine.begin() as connection:`"
    yield "sessionmaker", lambda _: sessionmaker(engine), "`with make_session() as session:`"
    yield (
        "Cursor",
        lambda s: s.enter_context(closing(sqlite3.connect(":memory:"))).cursor(),
        "a cur",
    )
    yield "str", lambda _: "orders", "the transaction comes first"
    yield "NoneType", lambda _: None, "not NoneType"
    yield "AsyncSession", lambda _: AsyncSession(async_engine), "use `await add_async(…)`"
    yield "AsyncConnection", lambda _: async_engine.connect(), "use `await add_async(…)`"
    yield "AsyncEngine", lambda _: async_engine, "`async with engine.begin() as connection:`"
    yield "async_sessionmaker", lambda _: async_sessionmaker(async_engine), "call it and pass"


@pytest.mark.parametrize(
    ("make", "hint"), [pytest.param(make, hint, id=name) for name, make, hint in _wrong()]
)
def test_another_object_is_a_type_error_that_says_what_to_pass(
    make: Callable[[ExitStack], object], hint: str
) -> None:
    """In the words of what the caller has in hand."""
    with ExitStack() as stack:
        wrong = make(stack)

        with pytest.raises(TypeError) as caught:
            EVENTS.add(wrong, "orders", b"")

    assert hint in str(caught.value)


def test_a_transaction_and_a_cursor_of_psycopg_are_type_errors(postgresql: Database) -> None:
    """Both are easily taken for the connection."""
    with psycopg.connect(postgresql.url) as connection, connection.transaction() as block:
        with pytest.raises(TypeError, match="not its transaction"):
            EVENTS.add(block, "orders", b"")
        with pytest.raises(TypeError, match="not a cursor"):
            EVENTS.add(connection.cursor(), "orders", b"")


def test_another_dialect_is_a_configuration_error(postgresql: Database) -> None:
    """Its SQL may be a little different."""
    engine = postgresql.engine()
    engine.dialect.name = "cockroachdb"

    with (
        engine.connect() as connection,
        pytest.raises(ConfigurationError, match="this connection's dialect is 'cockroachdb'"),
    ):
        EVENTS.add(connection, "orders", b"")


def test_a_subclass_and_a_proxy_are_what_they_stand_for(sqlite: Database) -> None:
    """Instrumentation wraps connections; applications derive sessions."""

    class Proxy:
        def __init__(self, target: Any) -> None:
            self._target = target

        @property  # as wrapt does it
        def __class__(self) -> Any:
            return self._target.__class__

        def __getattr__(self, name: str) -> Any:
            return getattr(self._target, name)

    class OurSession(Session):
        pass

    with closing(sqlite3.connect(sqlite.path)) as connection, connection:
        EVENTS.add(Proxy(connection), "proxy", b"")
    with OurSession(sqlite.engine()) as session, session.begin():
        EVENTS.add(session, "subclass", b"")

    assert sqlite.topics() == ["proxy", "subclass"]


def test_the_sessions_changes_come_first(database: Database) -> None:
    """Also with autoflush off: the message must be written after the row locks are taken."""
    statements: list[str] = []
    engine = database.engine()

    @event.listens_for(engine, "before_cursor_execute")
    def _note(*arguments: Any) -> None:
        statements.append(arguments[2])

    with Session(engine, autoflush=False) as session, session.begin():
        session.add(Order(id=1))
        with session.no_autoflush:
            EVENTS.add(session, "orders", b"")
        session.add(Order(id=2))
        EVENTS.add_all(session, [Message("orders", b"")])

    written = [sql for sql in statements if "backlog" not in sql]
    tables = ["outbox" if "outbox_message" in sql else "orders" for sql in written]
    assert tables == ["orders", "outbox", "orders", "outbox"]


def test_a_flush_that_fails_leaves_no_message(database: Database) -> None:
    """The caller's mistake shows at the call."""
    with Session(database.engine()) as session:
        session.add_all([Order(id=1), Customer(id=1)])
        session.commit()
        session.expunge_all()
        session.add(Order(id=1))

        with pytest.raises(Exception, match=r"(?i)unique"):
            EVENTS.add(session, "orders", b"")
        session.rollback()
        session.commit()

    assert database.rows() == []


def test_a_listener_of_the_flush_may_add(database: Database) -> None:
    """After the flush its changes are there, and a second flush would be an error."""
    with Session(database.engine()) as session, session.begin():
        event.listen(session, "after_flush", lambda *_: EVENTS.add(session, "orders", b""))
        session.add(Order(id=1))

    assert database.topics() == ["orders"]


def test_a_session_on_a_connection_is_fine(postgresql: Database) -> None:
    """As test suites do, to roll everything back in the end."""
    Base.metadata.create_all(postgresql.engine())
    with postgresql.engine().connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Order(id=1))
            EVENTS.add(session, "orders", b"")
            session.commit()
        outer.rollback()

    assert postgresql.rows() == []


@pytest.fixture
def second(tmp_path: Path) -> Database:
    """Give another database with a log."""
    url = f"sqlite:///{tmp_path}/second.db"
    migrate(url)
    return Database(url)


def test_a_session_with_several_databases_is_not_guessed(
    database: Database, second: Database
) -> None:
    """With a default of its own, too, for the log may be in the other."""
    first_engine, second_engine = database.engine(), second.engine()
    for bind in (None, first_engine):
        with Session(bind, binds={Order: first_engine, Customer: second_engine}) as session:
            with pytest.raises(ConfigurationError, match=r"has 2 databases \(binds=\)"):
                EVENTS.add(session, "orders", b"")

            # When it is said
            Outbox(bind_arguments={"mapper": Customer}).add(session, "by-mapper", b"")
            Outbox(bind_arguments={"bind": second_engine}).add(session, "by-bind", b"")
            session.commit()

    assert database.rows() == []
    assert second.topics() == ["by-mapper", "by-bind"] * 2


def test_binds_that_name_one_database_need_nothing(database: Database) -> None:
    """There is nothing to guess."""
    engine = database.engine()
    for arguments in (
        {"binds": {Order: engine, Customer: engine}},
        {"bind": engine, "binds": {Order: engine}},
    ):
        with Session(**arguments) as session, session.begin():
            EVENTS.add(session, "orders", b"")

    assert database.topics() == ["orders", "orders"]


def test_a_session_that_routes_is_not_guessed(database: Database) -> None:
    """Its get_bind() may well answer with a replica when nothing is said."""
    engine = database.engine()

    class RoutingSession(Session):
        def get_bind(self, mapper: Any = None, *, bind: Any = None, **_: Any) -> Any:
            return bind or engine

    with RoutingSession() as session, session.begin():
        with pytest.raises(ConfigurationError, match=r"RoutingSession chooses .* get_bind\(\)"):
            EVENTS.add(session, "orders", b"")
        Outbox(bind_arguments={"bind": engine}).add(session, "orders", b"")

    assert database.topics() == ["orders"]


def test_closed_connections_raise_the_drivers_error(postgresql: Database, sqlite: Database) -> None:
    """Not ours to explain."""
    with psycopg.connect(postgresql.url) as closed:
        pass
    with pytest.raises(psycopg.OperationalError, match="closed"):
        EVENTS.add(closed, "orders", b"")
    closed_sqlite = sqlite3.connect(sqlite.path)
    closed_sqlite.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        EVENTS.add(closed_sqlite, "orders", b"")


def test_nothing_is_left_in_a_pool(postgresql: Database) -> None:
    """A refused connection goes back as it came."""
    engine = create_engine(
        postgresql.url.replace("postgresql://", "postgresql+psycopg://"),
        pool_size=1,
        max_overflow=0,
        pool_timeout=5,
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        refusal(connection)
    with engine.begin() as connection:
        EVENTS.add(connection, "orders", b"")
    engine.dispose()

    assert postgresql.topics() == ["orders"]
