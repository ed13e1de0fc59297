"""Names of librdkafka's properties: how variables spell them, which are ours, which secret."""

from __future__ import annotations

import re

from outbox.errors import ConfigurationError

VARIABLE_PREFIX = "OUTBOX_KAFKA_"

#: Properties whose names have a real underscore; in all others a variable's underscore is a dot.
_UNDERSCORED = {
    name.upper(): name for name in ("log_level", "oauth_cb", "enabled_events", "enable_sasl_queue")
}

#: Properties that end like the `_FILE` variant of a variable and are none.
_ENDING_IN_FILE = frozenset(
    {
        "sasl.oauthbearer.assertion.file",
        "sasl.oauthbearer.assertion.private.key.file",
        "sasl.oauthbearer.assertion.jwt.template.file",
    }
)

_SECRET = re.compile(r"password|secret|passphrase|key\.pem|oauthbearer\.config")

_ACKS = "a message counts as delivered only when every in-sync replica has it"
_IDEMPOTENCE = "without it a retry inside the producer can repeat or reorder messages"
_TIMEOUT = "a message that times out in the producer would be overtaken by later ones of its key"
_RETRIES = "a message that was tried too often would be overtaken by later ones of its key"
_IN_FLIGHT = (
    "with more than one request in flight a producer can report a message as delivered that the "
    "broker refused"
)
_CALLBACK = "the relay needs the delivery reports and the errors itself"

#: Properties nobody but the relay may set, with the reason.
OWNED = {
    "acks": _ACKS,
    "request.required.acks": _ACKS,
    "enable.idempotence": _IDEMPOTENCE,
    "message.timeout.ms": _TIMEOUT,
    "delivery.timeout.ms": _TIMEOUT,
    "retries": _RETRIES,
    "message.send.max.retries": _RETRIES,
    "max.in.flight": _IN_FLIGHT,
    "max.in.flight.requests.per.connection": _IN_FLIGHT,
    "enable.gapless.guarantee": "a gap in what was sent must stop the producer, not pass unseen",
    "transactional.id": "it names relay and lane, so that Kafka itself can fence an old owner",
    "transaction.timeout.ms": "a transaction left open holds up every read_committed consumer",
    "isolation.level": "it is a consumer's: set it to read_committed where the messages are read",
    "group.id": "the relay keeps its position under the name of its transactional.id",
    "partitioner": "a key must go to the same partition as with Java's clients (murmur2_random)",
    "delivery.report.only.error": _CALLBACK,
    "default.topic.config": "its properties belong beside the others, where they can be checked",
    "dr_cb": _CALLBACK,
    "dr_msg_cb": _CALLBACK,
    "on_delivery": _CALLBACK,
    "error_cb": _CALLBACK,
    "logger": _CALLBACK,
}


def check_property(name: str, value: object, source: str) -> None:
    """Raise ConfigurationError if a property is ours to set; `source` says where it came from."""
    reason = OWNED.get(name)
    if reason is None or (name, value) == ("partitioner", "murmur2_random"):
        return
    raise ConfigurationError(f"{name} ({source}) cannot be set: {reason}")


def property_of(variable: str) -> tuple[str, bool]:
    """Return the property a variable stands for, and whether its value is the name of a file.

    >>> property_of("OUTBOX_KAFKA_BOOTSTRAP_SERVERS")
    ('bootstrap.servers', False)
    >>> property_of("OUTBOX_KAFKA_SASL_PASSWORD_FILE")
    ('sasl.password', True)
    """
    plain = variable.removeprefix(VARIABLE_PREFIX)
    name = _UNDERSCORED.get(plain) or plain.lower().replace("_", ".")
    if name.endswith(".file") and name not in _ENDING_IN_FILE:
        return name.removesuffix(".file"), True
    return name, False


def is_secret(name: str) -> bool:
    """Return whether the value of a property must not be shown."""
    return _SECRET.search(name) is not None and not name.endswith((".location", ".url"))
