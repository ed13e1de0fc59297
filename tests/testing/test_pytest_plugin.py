"""The plugin, used by the test files of an application."""

from __future__ import annotations

import pytest

from tests.integration.writing import Database

pytest_plugins = ["pytester"]

SQLALCHEMY = """
    import pytest
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool

    from outbox import Outbox
    from outbox.testing import assert_added, containing

    URL = "{url}".replace("postgresql:", "postgresql+psycopg:")

    def place_order(session, order, customer):
        Outbox().add(
            session, "orders", {{"order": order, "to": customer}}, key=customer, type="order.placed"
        )

    @pytest.fixture
    def session():
        with Session(create_engine(URL, poolclass=NullPool)) as session:
            yield session

    @pytest.fixture
    def log(outbox_log, session):
        return outbox_log(session)
"""


def user_file(pytester: pytest.Pytester, begin: str, tests: str) -> None:
    """Write a test file as a user would."""
    pytester.makepyfile("\n".join(_dedented(part) for part in (begin, tests)))


def _dedented(text: str) -> str:
    lines = text.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines)


#: What another plugin asks every user to say, and plugins that take their time to load.
SAID = (
    *("-o", "asyncio_default_fixture_loop_scope=function"),
    *("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:django"),
)


def run(pytester: pytest.Pytester) -> pytest.RunResult:
    """Run the user's tests, with warnings as errors."""
    return pytester.runpytest("-W", "error", *SAID)


def test_a_session_that_is_rolled_back(pytester: pytest.Pytester, database: Database) -> None:
    """Each test sees what it added itself, and nothing stays."""
    user_file(
        pytester,
        SQLALCHEMY.format(url=database.url),
        """
        def test_one(session, log):
            place_order(session, 1, "ada")
            message = log.assert_added("orders", key="ada", payload=containing({"order": 1}))
            assert message.type == "order.placed"
            log.refute_added("orders", key="ben")

        def test_two(session, log):
            log.refute_added()
            place_order(session, 2, "ben")
            log.assert_added("orders", count=1)
            [message] = log.drain()
            assert message.key == "ben"
            assert message.header("type") == "order.placed"

        def test_without_a_fixture(session):
            place_order(session, 3, "cleo")
            assert_added(session, "orders", key="cleo")
        """,
    )

    run(pytester).assert_outcomes(passed=3)

    assert database.rows() == []


def test_tests_that_commit(pytester: pytest.Pytester, database: Database) -> None:
    """What earlier tests left in the log does not count."""
    user_file(
        pytester,
        SQLALCHEMY.format(url=database.url),
        """
        @pytest.mark.parametrize("order", [1, 2, 3])
        def test_commits(session, log, order):
            place_order(session, order, "ada")
            session.commit()
            log.assert_added("orders", count=1, payload=containing({"order": order}))

        def test_an_engine(session, outbox_log):
            log = outbox_log(session.get_bind())
            place_order(session, 4, "ada")
            log.refute_added()
            session.commit()
            log.assert_added("orders", count=1)
            assert len(log.drain()) == 4
            assert log.drain() == []
        """,
    )

    run(pytester).assert_outcomes(passed=4)


def test_what_a_failure_looks_like(pytester: pytest.Pytester, database: Database) -> None:
    """The user's own line, and what is there instead; nothing of our insides."""
    user_file(
        pytester,
        SQLALCHEMY.format(url=database.url),
        """
        def test_wrong_order(session, log):
            place_order(session, 1, "ada")
            log.assert_added("orders", key="ada", payload={"order": 2, "to": "ada"})

        def test_added_after_all(session):
            from outbox.testing import refute_added

            place_order(session, 1, "ada")
            refute_added(session, "orders")
        """,
    )

    result = run(pytester)

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            ">       log.assert_added(*",
            "E       AssertionError: no message was added to topic 'orders' with key='ada', *",
            "E       1 message was added otherwise, nearest first:",
            "E         orders: key='ada', payload={'order': 1, 'to': 'ada'}, type='order.placed'",
            "E             payload (- expected, + added):",
            "E                 {",
            "E               -   'order': 2,",
            "E               +   'order': 1,",
            "E                   'to': 'ada',",
            "E                 }",
            ">       refute_added(session, *",
            "E       AssertionError: no message should have been added to topic *, and 1 was:",
            "E         orders: key='ada', payload={'order': 1, 'to': 'ada'}, type='order.placed'",
        ]
    )
    result.stdout.no_fnmatch_line("*outbox_log.py*")
    result.stdout.no_fnmatch_line("*functions.py*")


def test_psycopg(pytester: pytest.Pytester, postgresql: Database) -> None:
    """A connection, and a savepoint of it."""
    user_file(
        pytester,
        f"""
        import psycopg
        import pytest

        from outbox import Outbox

        @pytest.fixture
        def connection():
            with psycopg.connect("{postgresql.url}") as connection:
                yield connection
                connection.rollback()
        """,
        """
        def test_it(connection, outbox_log):
            log = outbox_log(connection)
            with pytest.raises(ZeroDivisionError), connection.transaction():
                Outbox().add(connection, "orders", {"order": 1})
                1 / 0
            log.refute_added()
            Outbox().add(connection, "orders", {"order": 2})
            assert log.assert_added("orders").data == {"order": 2}
        """,
    )

    run(pytester).assert_outcomes(passed=1)


def test_sqlite3_and_unittest(pytester: pytest.Pytester, sqlite: Database) -> None:
    """The functions need no pytest."""
    user_file(
        pytester,
        f"""
        import sqlite3
        import unittest

        from outbox import Outbox
        from outbox.testing import OutboxLog, assert_added, drain, refute_added

        PATH = "{sqlite.path}"
        """,
        """
        class OrderTest(unittest.TestCase):
            def setUp(self):
                self.connection = sqlite3.connect(PATH)
                self.addCleanup(self.connection.close)
                self.log = OutboxLog(self.connection)

            def test_it(self):
                Outbox().add(self.connection, "orders", {"order": 1}, key=1)
                self.log.assert_added("orders", key=1)
                assert_added(self.connection, "orders", payload={"order": 1})
                refute_added(self.connection, "invoices")
                assert [message.topic for message in drain(self.connection)] == ["orders"]
        """,
    )

    run(pytester).assert_outcomes(passed=1)


ASYNCIO = """
    import pytest
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.pool import NullPool

    from outbox import Outbox

    URL = "{url}".replace("postgresql:", "postgresql+psycopg:")

    @pytest.mark.{mark}
    async def test_it(outbox_log_async):
        async with AsyncSession(create_async_engine(URL, poolclass=NullPool)) as session:
            log = await outbox_log_async.open(session)
            await Outbox().add_async(session, "orders", {{"order": 1}})
            await log.assert_added("orders", payload={{"order": 1}})
            await log.refute_added("invoices")
            assert len(await log.drain()) == 1
"""


@pytest.mark.parametrize("mark", ["asyncio", "anyio"])
def test_asyncio(pytester: pytest.Pytester, postgresql: Database, mark: str) -> None:
    """With either plugin for it."""
    extra = "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    user_file(pytester, ASYNCIO.format(url=postgresql.url, mark=mark), extra)

    # In a process of its own: this one's event loop is not the user's.
    result = pytester.runpytest_subprocess("-W", "error", *SAID)

    result.assert_outcomes(passed=1)


def test_faults_and_a_delivery(pytester: pytest.Pytester, sqlite: Database) -> None:
    """All of it in a transaction that is rolled back."""
    user_file(
        pytester,
        SQLALCHEMY.format(url=sqlite.url),
        """
        from outbox.inbox import Inbox, Outcome
        from outbox.testing import deliver, savepoints

        def write_bill(session, message):
            Outbox().add(session, "bills", message.payload, key=message.key.decode())

        def test_it(session, log, outbox_faults):
            place_order(session, 1, "ada")
            outbox_faults.duplicate()
            first, again = log.drain(faults=outbox_faults)
            assert first == again

            outbox_faults.fail_commits()
            deliveries = deliver(
                Inbox("billing"),
                first,
                write_bill,
                transaction_factory=savepoints(session),
                times=3,
                faults=outbox_faults,
            )
            assert deliveries == [Outcome.FAILED, Outcome.HANDLED, Outcome.DUPLICATE]
            log.assert_added("bills", count=1)

        def test_faults_end_with_their_test(outbox_faults, session, log):
            place_order(session, 1, "ada")
            assert len(log.drain(faults=outbox_faults)) == 1
        """,
    )

    run(pytester).assert_outcomes(passed=2)


def test_a_kafka_for_each_test(pytester: pytest.Pytester) -> None:
    """Empty at its beginning."""
    pytester.makepyfile(
        """
        import pytest

        from outbox import Message

        @pytest.mark.parametrize("run", [1, 2])
        def test_it(kafka_mock, run):
            kafka_mock.create_topic("orders")
            assert kafka_mock.read("orders") == []
            kafka_mock.send(Message("orders", {"order": 1}))
            assert len(kafka_mock.read("orders")) == 1
        """
    )

    run(pytester).assert_outcomes(passed=2)


def test_a_fixture_of_the_users_own_wins(pytester: pytest.Pytester) -> None:
    """So a name of ours takes none away."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def kafka_mock():
            return "mine"
        """
    )
    pytester.makepyfile("def test_it(kafka_mock): assert kafka_mock == 'mine'")

    run(pytester).assert_outcomes(passed=1)


def test_nothing_is_loaded_until_it_is_used(pytester: pytest.Pytester) -> None:
    """A plugin that everybody has must cost nobody anything."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.partition(".")[0] == "outbox"}
            assert ours == {"outbox", "outbox.errors", "outbox.version", "outbox.pytest_plugin"}
            foreign = {"sqlalchemy", "psycopg", "confluent_kafka", "opentelemetry", "uuid_utils"}
            assert not foreign & set(sys.modules)
        """
    )

    result = pytester.runpytest_subprocess(*SAID)

    result.assert_outcomes(passed=1)


def test_pytest_shows_what_the_fixtures_are_for(pytester: pytest.Pytester) -> None:
    """`pytest --fixtures` is the first place to look."""
    result = pytester.runpytest("--fixtures", *SAID)

    result.stdout.fnmatch_lines_random(
        [
            "outbox_log -- *",
            "    What a test adds to the outbox: `log = outbox_log(session)`*",
            "outbox_log_async -- *",
            "outbox_faults -- *",
            "    Faults on demand, for *",
            "kafka_mock -- *",
            "    Give a Kafka of one broker in this process*",
        ]
    )
