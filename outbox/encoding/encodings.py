"""All that is done to messages on their way out: encoding by schemas, and CloudEvents."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from outbox.config.topic_rules import TopicRule, find_rule
from outbox.encoding.cloudevents import binding
from outbox.encoding.encoder import Encoder, is_json, make_encoder
from outbox.encoding.registry import SchemaRegistry
from outbox.errors import ConfigurationError
from outbox.headers import WireHeaders, stored_headers, user_headers
from outbox.record import Record


class Encodings:
    """What is done to the messages of each topic, and what is known of their schemas.

    `registry`: properties of the schema registry's client. `cloudevents`: "binary" or "structured",
    the form in which messages are CloudEvents too, of `source`. One thread at a time.

    Raises ConfigurationError and MissingExtra for what can be seen to be wrong before the first
    message.
    """

    def __init__(
        self,
        topics: tuple[TopicRule, ...] = (),
        registry: Mapping[str, object] | None = None,
        *,
        cloudevents: str = "off",
        source: str | None = None,
    ) -> None:
        self._rules = topics
        self._registry = _make_registry(topics, registry or {})
        self._event = _make_event(cloudevents, source)
        # By topic and type; None where nothing is encoded.
        self._encoders: dict[tuple[str, str | None], tuple[TopicRule, Encoder] | None] = {}
        for rule in topics:
            for each in (rule, *(inner for _, inner in rule.types)):
                self._make(each, rule.topic)  # a file that is wrong shows now

    def apply(self, record: Record) -> Record:
        """Return a record as it goes on the wire. Raises Misfit, RegistryUnavailable."""
        encoded = self._encoded(record) if self._rules else record
        return encoded if self._event is None else self._event(encoded)

    def in_words(self, record: Record) -> str:
        """Return by what a record is encoded, for a sentence."""
        found = self._find(record)
        return "" if found is None else f" as {found[0].encode} ({found[1].schema})"

    def close(self) -> None:
        """Close the connections to the registry."""
        if self._registry is not None:
            self._registry.close()

    def _encoded(self, record: Record) -> Record:
        if record.payload is None:
            return record
        found = self._find(record)
        if found is None or not self._is_to_be_encoded(record.content_type, found[0]):
            return record
        encoder = found[1]
        headers: WireHeaders = []
        payload = encoder.encode(record.payload, headers)
        encoded = record._replace(payload=payload, content_type=encoder.content_type)
        return encoded._replace(headers=_with(record, headers)) if headers else encoded

    @staticmethod
    def _is_to_be_encoded(content_type: str | None, rule: TopicRule) -> bool:
        return rule.assume_json if content_type is None else is_json(content_type)

    def _find(self, record: Record) -> tuple[TopicRule, Encoder] | None:
        key = (record.topic, record.type)
        if key not in self._encoders:
            rule = find_rule(self._rules, record.topic)
            self._encoders[key] = (
                None if rule is None else self._make(rule.for_type(record.type), record.topic)
            )
        return self._encoders[key]

    def _make(self, rule: TopicRule, topic: str) -> tuple[TopicRule, Encoder] | None:
        if rule.encode == "none" or self._registry is None:
            return None
        return rule, make_encoder(rule, topic, self._registry)


def _with(record: Record, headers: WireHeaders) -> str:
    return stored_headers(
        headers + ([] if record.headers is None else user_headers(record.headers))
    )


def _make_registry(
    topics: tuple[TopicRule, ...], properties: Mapping[str, object]
) -> SchemaRegistry | None:
    encoded = [
        rule.topic
        for rule in topics
        if any(each.encode != "none" for each in (rule, *(inner for _, inner in rule.types)))
    ]
    if not encoded:
        return None
    if not properties.get("url"):
        raise ConfigurationError(
            f"topic {encoded[0]!r} is to be encoded, and no schema registry is known: give "
            "OUTBOX_REGISTRY_URL, or url in the table [registry] of outbox.toml"
        )
    return SchemaRegistry(properties)


def _make_event(mode: str, source: str | None) -> Callable[[Record], Record] | None:
    if mode == "off":
        return None
    if not source:
        raise ConfigurationError(
            "cloudevents needs a source, which says whose events these are: give "
            "cloudevents_source, a URI such as /shop/orders"
        )
    return binding(mode, source)
