"""The question that an idle relay asks all the time, past psycopg's cursors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from outbox.errors import DatabaseUnavailable, OutboxError
from outbox.store.postgresql.patience import ImpatientConnection, Patience
from outbox.store.postgresql.session import Session


@pytest.fixture
def connection(postgresql_url: str) -> Iterator[ImpatientConnection]:
    opened = ImpatientConnection.connect(postgresql_url, autocommit=True)
    opened.patience = Patience(10.0)
    yield opened
    with suppress(psycopg.Error):
        opened.close()


def test_a_question_is_answered_with_its_text(connection: ImpatientConnection) -> None:
    session = Session(connection)
    assert session.text_of("select 'where we are'") == "where we are"
    assert session.text_of("select ''") == ""
    assert connection.execute("select 1").fetchone() == (1,)


def test_what_the_server_refuses_is_raised_and_the_session_goes_on(
    connection: ImpatientConnection,
) -> None:
    session = Session(connection)
    with pytest.raises(OutboxError, match="division by zero"), session.translated():
        session.text_of("select (1 / 0)::text")
    assert session.text_of("select 'still here'") == "still here"


def test_a_commit_that_the_server_turns_into_a_rollback_is_no_success(
    connection: ImpatientConnection,
) -> None:
    session = Session(connection)
    rolled_back = pytest.raises(DatabaseUnavailable, match="rolled back")
    with rolled_back, session.durable() as inside, suppress(psycopg.Error):
        inside.execute("select 1 / 0")


def test_a_server_that_says_nothing_is_given_up(connection: ImpatientConnection) -> None:
    # Given a server that takes its time, and a client with little patience
    connection.patience = Patience(0.2)
    session = Session(connection)
    # When it is asked
    with pytest.raises(DatabaseUnavailable, match="has not answered"), session.translated():
        session.text_of("select pg_sleep(20)::text")
    # Then the connection is gone: what the server may still say is nobody's answer
    assert connection.closed


def test_a_server_that_does_not_answer_what_was_asked_ahead_is_said_to_be_silent(
    connection: ImpatientConnection,
) -> None:
    connection.patience = Patience(0.2)
    session = Session(connection)
    with session.sending_ahead() as ahead:
        ahead.execute("select pg_sleep(20)")
    with pytest.raises(DatabaseUnavailable, match="has not answered"), session.translated():
        pass


def test_a_session_that_was_ended_meanwhile_counts_as_away(
    connection: ImpatientConnection, postgresql_url: str
) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    session = Session(connection)
    with pytest.raises(DatabaseUnavailable), session.translated():
        session.text_of("select 'anybody there'")
    assert connection.closed
