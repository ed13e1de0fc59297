"""manage.py outbox_consume"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.utils.module_loading import import_string

from outbox.cli.stopping import stopped_by_signals
from outbox.config.settings import load
from outbox.django.apps import LABEL
from outbox.django.databases import check_alias
from outbox.django.hosting import host_settings
from outbox.django.inbox import Inbox, transactions
from outbox.django.wording import in_djangos_words
from outbox.errors import OutboxError
from outbox.inbox.handling import check_handler

if TYPE_CHECKING:
    from outbox.inbox.consumer import InboxConsumer

# Any: Django's own signatures.


class Command(BaseCommand):
    """The command."""

    help = (
        "Give each message of a topic to a function of the project, once. The function is called "
        "with the connection and the message, in a transaction that also notes that the message "
        "was handled; when it raises, the message is tried again. SIGTERM and SIGINT let it finish "
        "the message at hand."
    )
    requires_system_checks = (LABEL,)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "handler", metavar="HANDLER", help="The function: shop.billing.write_bill."
        )
        parser.add_argument(
            "--topic", dest="topics", action="append", required=True, help="A topic. Repeatable."
        )
        parser.add_argument(
            "--consumer",
            required=True,
            help="The consumer's name, which takes each message once; also Kafka's group id.",
        )
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            metavar="ALIAS",
            help="The alias in DATABASES of what the function changes.",
        )
        parser.add_argument(
            "--until-idle",
            type=float,
            metavar="SECONDS",
            help="Stop when no message came for so long.",
        )
        parser.add_argument(
            "-X",
            dest="kafka",
            action="append",
            default=[],
            metavar="PROPERTY=VALUE",
            help="A property of librdkafka, beside those in OUTBOX['KAFKA']. Repeatable.",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run it."""
        stop = threading.Event()
        try:
            function = _imported(options["handler"])
            with _consumer(options) as consumer, stopped_by_signals(stop):
                consumer.run(function, stop=stop, until_idle=options["until_idle"])
        except OutboxError as error:
            advice = in_djangos_words(str(error), options["database"])
            raise CommandError(advice, returncode=error.exit_code) from error


def _consumer(options: dict[str, Any]) -> InboxConsumer[Any]:
    from outbox.inbox.consumer import InboxConsumer

    using = options["database"]
    check_alias(using)
    flags = {"kafka": options["kafka"]}
    settings = load(flags, os.environ, Path.cwd(), host_settings(using))
    return InboxConsumer(
        Inbox(options["consumer"]),
        transaction_factory=transactions(using),
        kafka=settings.kafka_properties(),
        topics=options["topics"],
    )


def _imported(name: str) -> Any:
    try:
        found = import_string(name.replace(":", "."))
        check_handler(found)
    except (ImportError, TypeError) as error:
        raise CommandError(f"HANDLER {name!r}: {error}", returncode=2) from error
    return found
