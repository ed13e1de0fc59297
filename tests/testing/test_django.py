"""Django's own connections, in a TestCase with nothing but the test's transaction."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.integration.writing import Database

pytest_plugins = ["pytester"]

SETTINGS = """
    SECRET_KEY = "x"
    USE_TZ = True
    INSTALLED_APPS = ["outbox.django"]
    DATABASES = {"default": %s}
"""

TESTS = """
    from django.db import connection as the_default, transaction
    from django.test import TestCase, TransactionTestCase

    from outbox import Message
    from outbox.django import add, connection
    from outbox.inbox import Inbox, Outcome
    from outbox.testing import (
        Faults, OutboxLog, assert_added, assert_takes_effect_once, deliver, drain, refute_added,
        savepoints,
    )

    def place_order(number):
        with transaction.atomic():
            add("orders", {"order": number}, key=number, type="order.placed")

    def write_bill(own, message):
        with transaction.atomic():
            add("bills", message.payload, key=message.key.decode())

    class InATestCase(TestCase):
        @classmethod
        def setUpTestData(cls):
            place_order(0)

        def setUp(self):
            self.log = OutboxLog(connection())

        def test_what_was_added_is_seen(self):
            place_order(1)
            self.log.assert_added("orders", count=1, key=1, payload={"order": 1})
            assert_added(the_default, "orders", count=2)
            self.log.refute_added("bills")

        def test_what_was_rolled_back_is_not(self):
            with self.assertRaises(ZeroDivisionError), transaction.atomic():
                place_order(1)
                1 / 0
            self.log.refute_added()

        def test_it_is_drained_and_delivered(self):
            place_order(1)
            [message] = self.log.drain()
            faults = Faults()
            faults.fail_commits()
            deliveries = deliver(
                Inbox("billing"), message, write_bill,
                transaction_factory=savepoints(connection()), times=3, faults=faults,
            )
            assert deliveries == [Outcome.FAILED, Outcome.HANDLED, Outcome.DUPLICATE]
            self.log.assert_added("bills", count=1)

        def test_it_takes_effect_once(self):
            assert_takes_effect_once(
                Inbox("billing"), Message("orders", {"order": 1}, key=1), write_bill,
                transaction_factory=savepoints(connection()),
                effects=lambda: len(self.log.added("bills")),
            )

    class ThatCommits(TransactionTestCase):
        def test_nothing_of_the_others_is_left(self):
            refute_added(connection())
            place_order(1)
            assert_added(connection(), "orders")
            assert len(drain(connection())) == 1
            assert not the_default.in_atomic_block

    def test_with_fixtures(db, outbox_log):
        log = outbox_log(connection())
        place_order(1)
        log.assert_added("orders")
"""


def databases(database: Database) -> str:
    """Return Django's settings for a database beside this one."""
    if not database.is_postgresql:
        return repr({"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"})
    parts = urlsplit(database.url)
    engine = "django.db.backends.postgresql"
    place = {"USER": parts.username, "PASSWORD": parts.password or ""}
    place |= {"HOST": parts.hostname, "PORT": parts.port}
    return repr({"ENGINE": engine, "NAME": parts.path[1:], **place})


def test_django(pytester: pytest.Pytester, database: Database) -> None:
    """The whole vocabulary, in both kinds of test cases and with fixtures."""
    pytester.makepyfile(shop_settings=SETTINGS % databases(database))
    pytester.makepyfile(TESTS)

    # In a process of its own: Django's settings are the process's.
    result = pytester.runpytest_subprocess(
        *("-W", "error", "--ds", "shop_settings", "-p", "no:cacheprovider"),
        *("-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:hypothesispytest"),
    )

    result.assert_outcomes(passed=6)
