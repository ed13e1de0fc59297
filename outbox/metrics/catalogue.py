"""Every metric of a relay: its names, its unit and what it means.

The documentation's table, the alert rules and the dashboard are checked against METRICS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

#: What OpenTelemetry's translation appends to a name for a unit; units in braces append nothing.
_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True, eq=False)  # each is itself: found by identity, at no cost
class Metric:
    """One metric. `name` is OpenTelemetry's; every metric has the label `relay` besides `labels`.

    `values` are those of the only label, where they are known beforehand: their series exist from
    the start, so that a rate over the first event is not missed.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Return the name of the series, the one OpenTelemetry's own translation arrives at.

        >>> LOG_SIZE.prometheus_name, SENT.prometheus_name
        ('outbox_log_size_bytes', 'outbox_messages_sent_total')
        """
        total = "_total" if self.kind == "counter" else ""
        return self.name.replace(".", "_") + _SUFFIXES.get(self.unit, "") + total


#: What a relay may have to wait for, or be let down by.
OBSTACLES = ("database", "broker", "topic")

SENT = Metric(
    "outbox.messages.sent",
    "counter",
    "{message}",
    "Messages that the broker has acknowledged, repeats included",
    ("topic",),
)
PUBLISH_DELAY = Metric(
    "outbox.publish.delay",
    "histogram",
    "s",
    "From the making of a message's id to its acknowledgement. Taken from the time in UUIDv7 ids,"
    " of up to 20 messages a page, each of which stands for those around it",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)
DELAY_UNKNOWN = Metric(
    "outbox.publish.delay.unknown",
    "counter",
    "{message}",
    "Messages without a publish delay: their id is no UUIDv7, as the database's own are not",
)
DELAY_NEGATIVE = Metric(
    "outbox.publish.delay.negative",
    "counter",
    "{message}",
    "Messages acknowledged before they were made, by the clocks of two machines; counted as 0 s",
)
SEND_DURATION = Metric(
    "outbox.send.duration",
    "histogram",
    "s",
    "From handing a page of up to 2,000 messages to the broker's client to the last of its"
    " acknowledgements; one observation a page",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
BATCHES = Metric("outbox.batches", "counter", "{batch}", "Batches of which a message was sent")
REFUSED = Metric(
    "outbox.messages.refused",
    "counter",
    "{message}",
    "Messages the broker will not take for a reason that lies in the message",
)
HELD = Metric(
    "outbox.messages.held",
    "counter",
    "{message}",
    "Messages put aside instead of being sent, by what they were at first: `retrying`, `blocked`"
    " behind an earlier one of their key, `dead`, or `expired`",
    ("state",),
    ("retrying", "blocked", "dead", "expired"),
)
RETRIED = Metric(
    "outbox.messages.retried",
    "counter",
    "{message}",
    "Held messages that were tried again, by what came of it; those that arrived are among the"
    " messages sent as well",
    ("outcome",),
    ("delivered", "failed"),
)
GIVEN_UP = Metric(
    "outbox.messages.given_up",
    "counter",
    "{message}",
    "Messages that have become `dead`: they are kept until an operator requeues or discards them",
)
TOPIC_CLOSED = Metric(
    "outbox.topic.closed",
    "gauge",
    "1",
    "1 while messages wait for this topic, which cannot be written to and is tried from time to"
    " time; there is no series for a topic that can",
    ("topic",),
)
FAILURES = Metric(
    "outbox.relay.failures",
    "counter",
    "{failure}",
    "Terms that ended early because a server or a topic was not there",
    ("cause",),
    OBSTACLES,
)
LEASE_LOST = Metric(
    "outbox.lease.lost", "counter", "{lease}", "Times that the lane was lost to another process"
)
IN_FLIGHT = Metric(
    "outbox.inflight.messages",
    "gauge",
    "{message}",
    "Messages handed to the broker's client whose page is not acknowledged yet",
)
LEADER = Metric(
    "outbox.relay.leader", "gauge", "1", "1 while this process holds the lane, else 0", ("lane",)
)
WAITING = Metric(
    "outbox.relay.waiting",
    "gauge",
    "1",
    "1 while the relay waits for a server or a topic to be there, else 0",
    ("cause",),
    OBSTACLES,
)
LIMITED = Metric(
    "outbox.relay.limited",
    "gauge",
    "1",
    "1 while more messages wait than the limit of the rate lets this process send, else 0",
)
PAUSED = Metric(
    "outbox.relay.paused",
    "gauge",
    "1",
    "1 while an operator has paused the lane (or all of it, or this relay name), else 0",
    ("lane",),
)
FENCED = Metric(
    "outbox.relay.fenced",
    "counter",
    "{fencing}",
    "Times that Kafka refused a transaction of this process, since another one had begun its own",
)
DELIVERY = Metric(
    "outbox.relay.delivery",
    "gauge",
    "1",
    "How this process publishes, `at-least-once` or `exactly-once`; always 1",
    ("delivery",),
)
LAST_PROGRESS = Metric(
    "outbox.relay.last_progress.timestamp",
    "gauge",
    "s",
    "When messages were last acknowledged, or found to be none; seconds since 1970",
)
PENDING = Metric(
    "outbox.messages.pending",
    "gauge",
    "{message}",
    "Messages committed and not known to be delivered; above 10,000 an upper bound. Sampled",
    ("lane",),
)
OLDEST = Metric(
    "outbox.oldest_pending.age",
    "gauge",
    "s",
    "Age of the oldest message not delivered, 0 without one, by the database's clock. Sampled",
    ("lane",),
)
PROCESSES = Metric(
    "outbox.relay.processes",
    "gauge",
    "{process}",
    "Processes of this relay name that were seen in the last minute, standbys included. Sampled",
)
LOG_SIZE = Metric(
    "outbox.log.size",
    "gauge",
    "By",
    "Size of the log with its indexes; on SQLite, of the file it is in. Sampled",
)
TRANSACTIONS = Metric(
    "outbox.holding_transactions",
    "gauge",
    "{transaction}",
    "Transactions that have written messages and not ended. Sampled",
    ("kind",),
    ("open", "prepared"),
)
TRANSACTION_AGE = Metric(
    "outbox.oldest_holding_transaction.age",
    "gauge",
    "s",
    "Age of the oldest of these transactions, 0 without one. That of another role's open"
    " transaction is seen by members of pg_read_all_stats only, and 0 to others. Sampled",
    ("kind",),
    ("open", "prepared"),
)
SCHEDULED = Metric(
    "outbox.scheduled.messages",
    "gauge",
    "{message}",
    "Messages that wait for their time (`scheduled`) or for a condition (`waiting`); 10,001 stands"
    " for more than 10,000. Sampled",
    ("state",),
    ("scheduled", "waiting"),
)
OVERDUE = Metric(
    "outbox.scheduled.overdue",
    "gauge",
    "s",
    "For how long the first scheduled message has been due, 0 where none is. Sampled",
)
HELD_NOW = Metric(
    "outbox.held.messages",
    "gauge",
    "{message}",
    "Messages that lie aside, by state; 10,001 stands for more than 10,000. Sampled",
    ("state",),
    ("retrying", "blocked", "dead", "expired"),
)
OLDEST_HELD = Metric(
    "outbox.oldest_held.age",
    "gauge",
    "s",
    "Age of the first of these messages, 0 without one. What is blocked waits behind something"
    " older. Sampled",
    ("state",),
    ("retrying", "dead", "expired"),
)
STOPPED_KEYS = Metric(
    "outbox.held.keys",
    "gauge",
    "{key}",
    "Keys whose later messages wait behind one that is held; 10,001 stands for more. Sampled",
)
PAUSES = Metric(
    "outbox.pauses",
    "gauge",
    "{pause}",
    "Pauses in force that concern this relay name: of topics, or of lanes and all they carry."
    " Sampled",
    ("of",),
    ("topic", "lane"),
)
OLDEST_PAUSE = Metric(
    "outbox.oldest_pause.age",
    "gauge",
    "s",
    "For how long the oldest of these pauses has been in force, 0 without one. Sampled",
)
UNDECLARED = Metric(
    "outbox.undeclared_lane.messages",
    "counter",
    "{message}",
    "Messages that name a lane nobody declared and so go through `default`; at least this many,"
    " as a sample looks at the latest 10,000 messages only",
    ("lane",),
)
SAMPLED_AT = Metric(
    "outbox.sample.timestamp",
    "gauge",
    "s",
    "When the sampled figures were taken; seconds since 1970",
)
SAMPLE_FAILURES = Metric(
    "outbox.sample.failures", "counter", "{sample}", "Samples that the database did not answer"
)
BUILD = Metric("outbox.build_info", "gauge", "1", "The version that runs; always 1", ("version",))

METRICS = (
    SENT,
    PUBLISH_DELAY,
    DELAY_UNKNOWN,
    DELAY_NEGATIVE,
    SEND_DURATION,
    BATCHES,
    REFUSED,
    HELD,
    RETRIED,
    GIVEN_UP,
    TOPIC_CLOSED,
    FAILURES,
    LEASE_LOST,
    FENCED,
    DELIVERY,
    IN_FLIGHT,
    LEADER,
    WAITING,
    LIMITED,
    PAUSED,
    LAST_PROGRESS,
    PENDING,
    OLDEST,
    PROCESSES,
    LOG_SIZE,
    TRANSACTIONS,
    TRANSACTION_AGE,
    SCHEDULED,
    OVERDUE,
    HELD_NOW,
    OLDEST_HELD,
    STOPPED_KEYS,
    PAUSES,
    OLDEST_PAUSE,
    UNDECLARED,
    SAMPLED_AT,
    SAMPLE_FAILURES,
    BUILD,
)

#: Those only the database knows. There are none of them where nobody samples: on standby, and
#: while the database does not answer.
SAMPLED = (
    PENDING,
    OLDEST,
    PROCESSES,
    LOG_SIZE,
    TRANSACTIONS,
    TRANSACTION_AGE,
    SCHEDULED,
    OVERDUE,
    HELD_NOW,
    OLDEST_HELD,
    STOPPED_KEYS,
    PAUSES,
    OLDEST_PAUSE,
    SAMPLED_AT,
)
