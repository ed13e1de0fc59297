"""What goes wrong in the user's own part of the loop loses no message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, text

from outbox.errors import ConfigurationError, SchemaMissing
from outbox.inbox import ReceivedMessage
from outbox.migrations import migrate
from tests.integration.inbox_world import IDLE, World, affect, ids, make_world

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]
world = pytest.fixture(make_world)


def test_a_factory_that_never_commits_is_found_out_with_the_first_message(world: World) -> None:
    # Given a factory whose context manager rolls back
    world.send(ids(2), partition=0)
    # When it runs
    with (
        world.consume(transaction_factory=world.engine.connect) as consumer,
        pytest.raises(ConfigurationError, match=r"does not commit.*engine\.begin"),
    ):
        consumer.run(affect, until_idle=IDLE)

    # Then nothing was lost
    assert world.offsets[0] == -1001
    with world.consume() as consumer:
        consumer.run(affect, until_idle=IDLE)
    assert world.effects() == ids(2)


def test_missing_tables_end_the_run_with_what_to_do_and_lose_nothing(world: World) -> None:
    # Given a database without the inbox's tables
    world.send(ids(2), partition=0)
    with world.engine.begin() as connection:
        connection.execute(text("drop table inbox_message, inbox_meta"))

    # When it runs
    with (
        world.consume() as consumer,
        pytest.raises(SchemaMissing, match="migrate --only inbox"),
    ):
        consumer.run(affect, until_idle=IDLE)

    # Then everything is there once the tables are
    assert world.offsets[0] == -1001
    migrate(world.engine.url.render_as_string(hide_password=False), only="inbox")
    with world.consume() as consumer:
        consumer.run(affect, until_idle=IDLE)
    assert world.effects() == ids(2)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_handler_that_ends_the_transaction_does_not_lose_the_message(
    world: World, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a handler that ends its transaction once
    world.send(["m-0"], partition=0)
    ends = [end]

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        affect(transaction, message)
        if ends:
            getattr(transaction, ends.pop())()

    # When it runs
    with world.consume() as consumer:
        consumer.run(handler, until_idle=IDLE)

    # Then the effect is there once, and the log says what the handler must not do
    assert world.effects() == ["m-0"]
    assert "the handler ended the transaction" in caplog.text


def test_an_exception_that_the_factory_keeps_to_itself_does_not_lose_the_message(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a factory that rolls back and swallows the exception
    world.send(["m-0"], partition=0)
    failures = [ValueError]

    @contextmanager
    def factory() -> Iterator[Connection]:
        with world.engine.connect() as connection:
            try:
                yield connection
                connection.commit()
            except ValueError:
                connection.rollback()

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        affect(transaction, message)
        if failures:
            raise failures.pop()

    # When it runs
    with world.consume(transaction_factory=factory) as consumer:
        consumer.run(handler, until_idle=IDLE)

    # Then the effect is there once
    assert world.effects() == ["m-0"]
    assert "kept the exception to itself" in caplog.text


def test_a_factory_that_gives_no_context_manager_is_refused_and_loses_nothing(
    world: World,
) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a function, not int.*engine\.begin"):
        world.consume(transaction_factory=5)
    world.send(["m-0"], partition=0)
    with (
        world.consume(transaction_factory=lambda: None) as consumer,
        pytest.raises(ConfigurationError, match=r"NoneType, which is no context manager"),
    ):
        consumer.run(affect, until_idle=IDLE)
    assert world.offsets[0] == -1001


def test_a_handler_that_does_not_take_two_arguments_is_refused_at_once(world: World) -> None:
    with world.consume() as consumer, pytest.raises(TypeError, match="two arguments"):
        consumer.run(lambda message: None, until_idle=IDLE)  # type: ignore[arg-type, misc] # which is the point


def test_a_handler_that_returns_a_coroutine_is_refused_and_loses_nothing(world: World) -> None:
    async def later() -> None: ...

    world.send(["m-0"], partition=0)
    with world.consume() as consumer, pytest.raises(ConfigurationError, match="coroutine"):
        consumer.run(lambda transaction, message: later(), until_idle=IDLE)  # type: ignore[arg-type, return-value] # which is the point
    assert world.offsets[0] == -1001
