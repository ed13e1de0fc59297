"""The admin: read-only, never reading the whole log, and payloads only for those who may."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from opentelemetry import trace

from outbox import Message
from outbox.django import add, add_all, admin
from outbox.django.models import OutboxMessage
from outbox.django.settings import current

pytestmark = pytest.mark.django_db(databases=["default", "other"])

MESSAGES = "/admin/outbox_relay/outboxmessage/"
SCHEDULED = "/admin/outbox_relay/outboxscheduled/"
CURSORS = "/admin/outbox_relay/outboxcursor/"
TRACED = trace.SpanContext(2**127 + 1, 2**63 + 1, is_remote=False)


@pytest.fixture
def client() -> Client:
    """Give a browser of a user who may look at the log but not at payloads."""
    user = User.objects.create_user("operator", is_staff=True)
    views = ("view_outboxmessage", "view_outboxscheduled", "view_outboxcursor")
    user.user_permissions.set(Permission.objects.filter(codename__in=views))
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200, response
    return html.unescape(response.content.decode())


def written(topic: str = "orders", payload: object = None, **given: Any) -> OutboxMessage:
    using = given.pop("using", "default")
    with transaction.atomic(using=using):
        message = add(topic, {"secret": 1} if payload is None else payload, using=using, **given)
    return OutboxMessage.objects.using(using).get(message_id=message.id)


def execute(sql: str) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)


def listed(text: str) -> list[int]:
    return [int(seq) for seq in re.findall(r"outboxmessage/(\d+)/change", text)]


def test_the_log_is_listed_newest_first() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    first, second = written(key="a"), written(key="b")

    assert listed(page(client, MESSAGES)) == [second.seq, first.seq]


def test_filters_narrow_the_list(client: Client) -> None:
    order = written("orders", type="order.placed")
    bill = written("bills", type="bill.sent")

    assert listed(page(client, f"{MESSAGES}?topic=orders")) == [order.seq]
    assert listed(page(client, f"{MESSAGES}?type=bill.sent")) == [bill.seq]
    assert len(listed(page(client, f"{MESSAGES}?age=5min"))) == 2
    assert listed(page(client, f"{MESSAGES}?age=-5min")) == []


def test_a_search_finds_by_id_key_topic_and_type(client: Client) -> None:
    wanted = written("orders", key="customer-7", type="order.placed")
    written("bills", key="customer-8")

    for term in (str(wanted.message_id), "customer-7", "orders", "order.placed"):
        assert listed(page(client, f"{MESSAGES}?q={term}")) == [wanted.seq], term
    assert listed(page(client, f"{MESSAGES}?q=customer")) == []


def test_a_message_is_shown_with_its_trace_and_without_its_payload(client: Client) -> None:
    with trace.use_span(trace.NonRecordingSpan(TRACED)):
        message = written(headers={"tenant": "acme"})

    shown = page(client, f"{MESSAGES}{message.seq}/change/")

    assert str(message.message_id) in shown
    assert f"{TRACED.trace_id:032x}" in shown
    assert "acme" in shown
    assert "secret" not in shown


def test_payloads_take_a_permission_of_their_own(client: Client) -> None:
    message = written()
    permission = Permission.objects.get(codename="view_payload")
    User.objects.get(username="operator").user_permissions.add(permission)

    shown = page(client, f"{MESSAGES}{message.seq}/change/")

    assert '{\n  "secret": 1\n}' in shown


def test_without_the_permission_payloads_do_not_leave_the_database(client: Client) -> None:
    message = written()

    with CaptureQueriesContext(connections["default"]) as queries:
        page(client, MESSAGES)
        page(client, f"{MESSAGES}{message.seq}/change/")

    assert not [query for query in queries if '"payload"' in query["sql"]]


@pytest.mark.parametrize("action", ["add/", "{}/delete/"])
def test_nothing_can_be_added_or_deleted_even_by_a_superuser(action: str) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    message = written()

    assert client.get(MESSAGES + action.format(message.seq)).status_code == 403
    assert client.post(f"{MESSAGES}{message.seq}/change/", {"topic": "x"}).status_code == 403
    assert 'name="action"' not in page(client, MESSAGES)


def test_a_long_list_takes_as_many_queries_as_a_short_one(client: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connections["default"]) as captured:
            page(client, MESSAGES)
        return len(captured)

    written()
    short = queries()
    with transaction.atomic():
        add_all([Message("orders", number) for number in range(40)])

    assert queries() == short


def test_counting_has_an_end_and_the_list_says_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "MAX_COUNT", 3)
    with transaction.atomic():
        add_all([Message("orders", number) for number in range(5)])

    with CaptureQueriesContext(connections["default"]) as queries:
        shown = page(client, MESSAGES)

    assert "More than 3 messages match" in shown
    table = current().names["outbox_message"].rpartition(".")[2]
    counts = [
        query["sql"] for query in queries if "COUNT(" in query["sql"] and table in query["sql"]
    ]
    assert counts
    assert all("LIMIT 3" in sql for sql in counts)


def test_filters_count_nothing(client: Client) -> None:
    written()

    assert "_facets" not in page(client, MESSAGES)
    with CaptureQueriesContext(connections["default"]) as plain:
        page(client, MESSAGES)
    with CaptureQueriesContext(connections["default"]) as asked:
        page(client, f"{MESSAGES}?_facets=True")
    assert len(asked) == len(plain)


def test_a_search_has_an_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "WINDOW", 1)
    written("old")
    new = written("new")

    assert listed(page(client, MESSAGES)) == [new.seq]


def test_red_when_messages_wait_and_no_relay_runs(client: Client) -> None:
    written()

    shown = page(client, MESSAGES)

    assert '<li class="error">Relay default: 1 waiting' in shown
    assert "manage.py outbox_relay" in shown


def test_green_when_everything_is_delivered(client: Client) -> None:
    assert '<li class="success">Relay default: everything is delivered' in page(client, CURSORS)


def test_green_while_a_relay_delivers_and_yellow_when_it_is_late(client: Client) -> None:
    written()
    cursor, log = current().names["outbox_cursor"], current().names["outbox_message"]
    postgresql = connections["default"].vendor == "postgresql"
    soon = "now() + interval '9 seconds'" if postgresql else "unixepoch() + 9"
    past = "now() - interval '5 minutes'" if postgresql else "unixepoch() - 300"
    execute(f"update {cursor} set owner = 'host:1', lease_until = {soon}")

    assert '<li class="success">Relay default: 1 waiting' in page(client, CURSORS)
    execute(f"update {log} set created_at = {past}")
    assert '<li class="warning">Relay default: 1 waiting' in page(client, CURSORS)


def test_red_when_there_is_no_relay_name(client: Client) -> None:
    execute(f"delete from {current().names['outbox_cursor']}")

    assert '<li class="error">There is no relay name' in page(client, CURSORS)


def test_the_list_is_there_when_the_state_cannot_be_read(client: Client) -> None:
    written()
    execute(f"drop table {current().names['outbox_process']}")

    shown = page(client, MESSAGES)

    assert "The state of the relays cannot be read" in shown
    assert len(listed(shown)) == 1


def test_cursors_show_their_lag(client: Client) -> None:
    written()

    shown = page(client, CURSORS)

    assert '<td class="field-waiting">1</td>' in shown
    assert '<td class="field-held_by">nobody</td>' in shown


def test_what_waits_is_listed_without_its_payload(client: Client) -> None:
    with transaction.atomic():
        add("reminders", {"secret": 1}, key="ada", delay=timedelta(hours=1))
        add("orders", {"secret": 1}, wait_for="payment-42")

    shown = page(client, SCHEDULED)

    assert "reminders" in shown
    assert "payment-42" in shown
    (number, *_) = re.findall(r"outboxscheduled/(\d+)/change", shown)
    assert "secret" not in page(client, f"{SCHEDULED}{number}/change/")


def test_asking_for_the_state_leaves_the_planner_as_it_was(client: Client) -> None:
    if connections["default"].vendor != "postgresql":
        pytest.skip("SQLite has no such settings")

    page(client, CURSORS)

    with connections["default"].cursor() as cursor:
        cursor.execute("show enable_seqscan")
        assert cursor.fetchone() == ("on",)


def test_each_database_has_its_own_list(client: Client) -> None:
    here, there = written("here"), written("there", using="other")

    assert "there" not in page(client, MESSAGES)
    shown = page(client, f"{MESSAGES}?database=other")
    assert listed(shown) == [there.seq]
    assert "?database=default" in shown
    address = f"{MESSAGES}{there.seq}/change/?_changelist_filters=database%3Dother"
    assert "there" in page(client, address)
    assert "here" in page(client, f"{MESSAGES}{here.seq}/change/")


def test_a_database_without_our_tables_is_not_offered(client: Client) -> None:
    assert "database=bare" not in page(client, MESSAGES)
    assert client.get(f"{MESSAGES}?database=bare").status_code == 200


def test_the_front_page_of_the_application_works(client: Client) -> None:
    assert "Cursors" in page(client, "/admin/outbox_relay/")
