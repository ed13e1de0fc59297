"""The schema registry: asked rarely, remembered long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from outbox.config.registry_properties import shown_url
from outbox.errors import BrokerUnavailable, ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, Schema

logger = logging.getLogger("outbox.relay")

Answer = TypeVar("Answer")

#: Ours unless the user knows better. The relay itself tries again; and while it waits for an answer
#: it does not renew its lease.
_DEFAULTS: Mapping[str, object] = {"timeout": 2.0, "max.retries": 0}

#: How long the newest version of a subject is taken for the newest, in seconds.
_FRESH_S = 300.0

#: After a look at it has failed, the old one is good for that long.
_GRACE_S = 30.0

_LONG_AGO = float("-inf")

_NOT_FOUND = 404
_REFUSES = frozenset({400, 409, 422})


class RegistryUnavailable(BrokerUnavailable):
    """The schema registry cannot be reached, or does not have the schema yet.

    `topics`: which topics cannot be written to therefore, and why, where that is known.
    """

    topics: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Known:
    schema: RegisteredSchema
    until: float


class SchemaRegistry:
    """What is known of a registry; stands in for its client in Confluent's serializers.

    Keeps what it has learned for as long as it lives, so that an outage stops only what needs a
    schema that was never seen. Raises RegistryUnavailable, which waiting may mend, and
    ConfigurationError for a schema that the registry refuses.
    """

    def __init__(
        self, properties: Mapping[str, object], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        given = dict(properties)
        self.url = shown_url(given)
        fresh_s = given.pop("cache.latest.ttl.sec", _FRESH_S)
        self._fresh_s = float(str(fresh_s))
        # The client's own memory of what is newest has no end, or ends where ours must go on.
        self._client = _make_client({**_DEFAULTS, **given, "cache.latest.ttl.sec": 0})
        self._clock = clock
        # Until then a registry that did not answer is not asked for what is known: to wait for it
        # once for each of many topics takes longer than the relay's lease.
        self._away_until = _LONG_AGO
        self._newest: dict[tuple[str, str | None], _Known] = {}
        self._versions: dict[tuple[str, int, str | None], RegisteredSchema] = {}

    # The names and arguments are those of Confluent's client: its serializers call them.

    def config(self) -> Any:
        """Return the client's properties."""
        return self._client.config()

    def get_latest_version(self, subject_name: str, fmt: str | None = None) -> RegisteredSchema:
        """Return the newest version of a subject; that of a while ago when the registry is away."""
        known = self._newest.get((subject_name, fmt))
        if known is not None and self._clock() < max(known.until, self._away_until):
            return known.schema
        try:
            found = self._asked(
                f"the newest schema of subject {subject_name!r}",
                lambda: self._client.get_latest_version(subject_name, fmt),
            )
        except RegistryUnavailable as error:
            if known is None:
                raise
            logger.warning("%s; going on with the schema from before", error)
            self._newest[subject_name, fmt] = replace(known, until=self._clock() + _GRACE_S)
            return known.schema
        self._newest[subject_name, fmt] = _Known(found, self._clock() + self._fresh_s)
        return found

    def get_version(
        self, subject_name: str, version: int, deleted: bool = False, fmt: str | None = None
    ) -> RegisteredSchema:
        """Return one version of a subject, which never changes."""
        key = (subject_name, version, fmt)
        if key not in self._versions:
            self._versions[key] = self._asked(
                f"version {version} of subject {subject_name!r}",
                lambda: self._client.get_version(subject_name, version, deleted, fmt),
            )
        return self._versions[key]

    def lookup_schema(
        self, subject_name: str, schema: Schema, *arguments: Any, **named: Any
    ) -> RegisteredSchema:
        """Return what the registry knows of a schema that must be registered already."""
        return self._asked(
            f"this schema under subject {subject_name!r} (register it, let the relay do so with "
            "register = true, or, for Protobuf that is registered as text, name its version)",
            lambda: self._client.lookup_schema(subject_name, schema, *arguments, **named),
        )

    def register_schema_full_response(
        self, subject_name: str, schema: Schema, *arguments: Any, **named: Any
    ) -> RegisteredSchema:
        """Register a schema and return what the registry made of it."""
        return self._asked(
            f"the schema for subject {subject_name!r}",
            lambda: self._client.register_schema_full_response(
                subject_name, schema, *arguments, **named
            ),
        )

    def register_schema(
        self, subject_name: str, schema: Schema, *arguments: Any, **named: Any
    ) -> int:
        """Register a schema and return its id."""
        found = self.register_schema_full_response(subject_name, schema, *arguments, **named)
        return found.schema_id or 0

    def close(self) -> None:
        """Close the connections to the registry."""
        self._client.close()

    def _asked(self, wanted: str, ask: Callable[[], Answer]) -> Answer:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            answer = ask()
        except SchemaRegistryError as error:
            raise self._refusal(wanted, error) from error
        except Exception as error:
            self._away_until = self._clock() + _GRACE_S
            # The HTTP client has errors of its own, which of two libraries it is depends on its
            # version; and what answers in place of a registry may answer anything.
            reason = str(error) or type(error).__name__
            raise RegistryUnavailable(
                f"the schema registry {self.url} cannot be reached: {reason}"
            ) from error
        self._away_until = _LONG_AGO
        return answer

    def _refusal(self, wanted: str, error: Any) -> Exception:
        if error.http_status_code == _NOT_FOUND:
            return RegistryUnavailable(
                f"the schema registry {self.url} does not have {wanted}: {error}"
            )
        if error.http_status_code in _REFUSES:
            return ConfigurationError(
                f"the schema registry {self.url} refuses {wanted}: {error}. Nothing is lost"
            )
        return RegistryUnavailable(f"the schema registry {self.url} cannot answer: {error}")


class FixedRegistry:
    """A registry whose newest schema is the given one, however long a serializer lives."""

    def __init__(self, registry: SchemaRegistry, schema: RegisteredSchema) -> None:
        self._registry = registry
        self._schema = schema

    def get_latest_version(self, subject_name: str, fmt: str | None = None) -> RegisteredSchema:  # noqa: ARG002 - the client's signature
        """Return the given schema."""
        return self._schema

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)


def _make_client(properties: Mapping[str, object]) -> Any:
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise MissingExtra(
            "encoding through a schema registry needs more of confluent-kafka: run `pip install "
            '"outbox-relay[avro]"`, or [protobuf] or [jsonschema]'
        ) from error
    try:
        return SchemaRegistryClient(dict(properties))
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"registry: {error}") from error
