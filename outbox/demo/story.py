"""What happens in the demo, step by step, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from outbox.demo.billing import Billing, open_billing
from outbox.demo.cluster import Cluster, run_cluster, show
from outbox.demo.relays import drain, kill_a_relay, undelivered
from outbox.demo.shop import TOPIC, Shop, open_shop
from outbox.demo.verdict import Evidence, Verdict, judge
from outbox.inbox.received import ReceivedMessage

Say = Callable[[str], None]

ORDERS = range(1, 51)

_PATIENCE_S = 60.0


def tell(directory: Path, say: Say) -> Verdict:
    """Let it all happen, with the databases in `directory`, and return what came of it."""
    say("A shop tells a billing service of its orders through Kafka. The relay is killed midway.")
    database = directory / "shop.db"
    with (
        run_cluster(TOPIC) as kafka,
        open_shop(database) as shop,
        open_billing(directory / "billing.db", kafka.bootstrap_servers, TOPIC) as billing,
    ):
        say(f"   databases   SQLite, in {directory}, removed at the end")
        say(f"   Kafka       librdkafka's mock cluster, at {kafka.bootstrap_servers}")
        declined = orders_are_taken(shop, say)
        the_relay_is_killed(database, kafka, say)
        another_relay_goes_on(database, kafka, say)
        everything_is_billed(billing, kafka, say)
        return look_back(shop, declined, kafka, billing, say)


def orders_are_taken(shop: Shop, say: Say) -> list[int]:
    """Take orders, some of which roll back; return the numbers of those."""
    say("")
    say(f"1. The shop takes {len(ORDERS)} orders.")
    say("   Each writes a row for the order and a message for the world, in one transaction.")
    declined = shop.take_orders(ORDERS)
    say(f"   {len(declined)} cards are declined after both were written: rolled back.")
    say(f"   The database holds {shop.count()} orders.")
    return declined


def the_relay_is_killed(database: Path, kafka: Cluster, say: Say) -> None:
    """Let a relay die between sending messages and noting that it has."""
    say("")
    say("2. A relay process starts, and is killed in the middle (SIGKILL, so without a last word).")
    say("   It kills itself, so that it hits the worst moment: Kafka has confirmed messages,")
    say("   and the database does not know.")
    waiting = undelivered(database)
    pid = kill_a_relay(database, kafka.bootstrap_servers)
    known = waiting - undelivered(database)
    sent = len(kafka.read(TOPIC))
    say(f"   Process {pid} is dead. Kafka holds {sent} messages, the database knows of {known}.")


def another_relay_goes_on(database: Path, kafka: Cluster, say: Say) -> None:
    """Let a second relay take over from where the database says."""
    say("")
    say("3. Another relay takes over, from where the database says.")
    drain(database, kafka.bootstrap_servers)
    messages = kafka.read(TOPIC)
    repeats = len(messages) - len({message.id for message in messages})
    say(f"   Kafka holds {len(messages)} messages, {repeats} of them for the second time.")
    say("   One of them, as it is on the wire:")
    for line in show(messages[0]):
        say(f"      {line}")


def everything_is_billed(billing: Billing, kafka: Cluster, say: Say) -> None:
    """Wait until billing has turned to every message, repeats included."""
    say("")
    say("4. The billing service has been listening. Each bill is one transaction with the inbox,")
    say("   which knows the messages that have taken effect.")
    billing.wait_for(len(kafka.read(TOPIC)), _PATIENCE_S)
    say(f"   It received {billing.received} messages and recognised {billing.recognised} as known.")


def look_back(
    shop: Shop, declined: list[int], kafka: Cluster, billing: Billing, say: Say
) -> Verdict:
    """Read both databases and the topic once more, and compare."""
    say("")
    say("5. What is in the databases and in Kafka now?")
    verdict = judge(
        Evidence(
            tried=ORDERS,
            declined=declined,
            orders=shop.orders(),
            messages=[_order_and_customer(message) for message in kafka.read(TOPIC)],
            bills=billing.bills(),
        )
    )
    say("")
    say(verdict.sentence)
    return verdict


def _order_and_customer(message: ReceivedMessage) -> tuple[int, str]:
    placed = json.loads(message.payload or b"null")
    return placed["order"], placed["customer"]
