"""flask outbox consume"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import click

from outbox.cli.logs import set_up_logging
from outbox.cli.options import config_option, kafka_option, log_options, setting, settings_from
from outbox.cli.stopping import stopped_by_signals
from outbox.errors import ConfigurationError
from outbox.flask.consuming import transactions
from outbox.flask.current import state_of
from outbox.flask.host import FlaskInvocation
from outbox.inbox.handling import check_factory, check_handler
from outbox.inbox.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from outbox.config.settings import Settings
    from outbox.inbox.consumer import InboxConsumer

logger = logging.getLogger("outbox.flask")

EPILOG = """\b
Examples:
  flask outbox consume shop.billing:handle --topic orders --consumer billing
  flask outbox consume shop.billing:handle --topic orders --consumer billing --until-idle 5
  flask outbox consume shop.billing:handle --topic orders --consumer billing -X client.id=a"""


@click.command(epilog=EPILOG)
@click.argument("handler", metavar="MODULE:FUNCTION")
@click.option("--topic", "topics", multiple=True, required=True, help="A topic. Repeatable.")
@click.option(
    "--consumer",
    required=True,
    help="The consumer's name, which takes each message once; also Kafka's group id.",
)
@click.option(
    "--transactions",
    "begin",
    metavar="MODULE:FUNCTION",
    help="What begins a transaction, for an app without db.session: a function that returns a "
    "context manager, such as sessionmaker(engine).begin.",
)
@click.option(
    "--until-idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop when no message came for so long.",
)
@log_options
@kafka_option
@setting("table_prefix")
@setting("schema")
@config_option
@click.pass_obj
def consume(
    invocation: FlaskInvocation,
    /,
    *,
    handler: str,
    begin: str | None,
    until_idle: float | None,
    log_format: str,
    log_level: str,
    **flags: Any,
) -> None:
    """Give each message of a topic to a function of the app, once.

    MODULE:FUNCTION is called with a session and a message, within an app context of its own for
    each message. What it does and the note that the message was handled are committed together;
    when it raises, the message is tried again. SIGTERM and SIGINT let it finish the message at
    hand; a second signal ends the process at once.
    """
    function = _imported("MODULE:FUNCTION", handler, invocation.app, check_handler)
    factory = begin and _imported("--transactions", begin, invocation.app, check_factory)
    settings = settings_from(flags)
    set_up_logging(log_format, log_level)
    consumer = _consumer(invocation.app, settings, factory, flags["consumer"], flags["topics"])
    topics = ", ".join(flags["topics"])
    logger.info("consumer %s gives the messages of %s to %s", flags["consumer"], topics, handler)
    stop = threading.Event()
    with consumer, stopped_by_signals(stop):
        consumer.run(function, stop=stop, until_idle=until_idle)


def _consumer(
    app: Flask, settings: Settings, factory: Any, name: str, topics: tuple[str, ...]
) -> InboxConsumer[Any]:
    from outbox.inbox.consumer import InboxConsumer

    inbox = Inbox(
        name,
        schema=settings.names.schema,
        table_prefix=settings.names.prefix,
        bind_arguments=state_of(app.extensions, app.name).bind_arguments,
    )
    return InboxConsumer(
        inbox,
        transaction_factory=transactions(app, factory),
        kafka=settings.kafka_properties(),
        topics=list(topics),
    )


def _imported(option: str, name: str, app: Flask, check: Callable[[object], None]) -> Any:
    """Import a function; what is wrong with it is a mistake in the command line."""
    from werkzeug.utils import ImportStringError, import_string

    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise click.BadParameter(f"{name!r}: write module:function", param_hint=option)
    try:
        with app.app_context():
            found = import_string(name)
        check(found)
    except ImportStringError as error:
        raise click.BadParameter(f"{name!r}: {error.exception}", param_hint=option) from error
    except (TypeError, ConfigurationError) as error:
        raise click.BadParameter(f"{name!r}: {error}", param_hint=option) from error
    return found
