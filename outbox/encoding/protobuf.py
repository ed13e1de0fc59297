"""Payloads of JSON to Protobuf messages, by Protobuf's own mapping of JSON."""

from __future__ import annotations

import base64
import binascii
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outbox.config.topic_rules import TopicRule, is_class
from outbox.encoding.encoder import Encode, RegistryEncoder, parsed_json
from outbox.encoding.misfit import Misfit
from outbox.encoding.registration import Registration, id_serializer
from outbox.encoding.registry import SchemaRegistry
from outbox.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema

_SERIALIZED = "serialized"

_HOW_TO_COMPILE = (
    "compile it with `protoc --include_imports --descriptor_set_out=order.desc order.proto` and "
    'give schema = "order.desc", or give a generated class as schema = "order_pb2:Order"'
)


class ProtobufEncoder(RegistryEncoder):
    """Encodes payloads by the message class that a file, a module or the registry gives."""

    _fmt = _SERIALIZED

    def __init__(self, rule: TopicRule, topic: str, registry: SchemaRegistry) -> None:
        _require_protobuf()
        self._rule = rule
        self._class = None if rule.schema is None else _class_of_schema(rule)
        name = None if self._class is None else self._class.DESCRIPTOR.full_name
        super().__init__(Registration(rule, topic, registry, name))

    def _now(self) -> Encode:
        if self._class is None or self._rule.version is not None:
            return super()._now()
        if self._current is None:
            self._current = (None, self._registered(self._class))
        return self._current[1]

    def _prepare(self, found: RegisteredSchema) -> Encode:
        """Return what puts the id in front of a message whose schema the registry has.

        Confluent's serializer would parse the registry's schema for that, and not every registry
        gives it in the form that it can parse.
        """
        from confluent_kafka.schema_registry.serde import SchemaId

        message_class = self._class or _class_of_registry(self._registration, found)
        index, put_id = _index(message_class.DESCRIPTOR), id_serializer(self._rule)

        def encode(payload: bytes, context: Any) -> bytes:
            message = _filled(message_class, parsed_json(payload), self._rule)
            schema_id = SchemaId("PROTOBUF", found.schema_id, found.guid, index)
            return put_id(message.SerializeToString(), context, schema_id)

        return encode

    def _registered(self, message_class: Any) -> Encode:
        """Return the same by Confluent's serializer, which looks up or registers the class's schema
        together with what it imports."""
        from confluent_kafka.schema_registry.protobuf import ProtobufSerializer

        registration = self._registration
        serialize = ProtobufSerializer(
            message_class,
            registration.registry,
            conf=registration.configuration()
            | {"auto.register.schemas": self._rule.register, "use.latest.version": False},
        )

        # It asks the registry at its first message, and that must not be one that may be refused.
        serialize(message_class(), registration.context([]))

        def encode(payload: bytes, context: Any) -> bytes:
            message = _filled(message_class, parsed_json(payload), self._rule)
            return serialize(message, context) or b""

        return encode


def _filled(message_class: Any, value: Any, rule: TopicRule) -> Any:
    from google.protobuf.json_format import ParseDict, ParseError

    try:
        return ParseDict(
            value, message_class(), ignore_unknown_fields=rule.unknown_fields == "ignore"
        )
    except (ParseError, TypeError, ValueError, AttributeError) as error:
        raise Misfit("payload", str(error)) from error


def _index(descriptor: Any) -> list[int]:
    """Return where a message stands in its file: its number, or the numbers of those around it."""
    outer = descriptor.containing_type
    if outer is None:
        return [list(descriptor.file.message_types_by_name).index(descriptor.name)]
    return [*_index(outer), [inner.name for inner in outer.nested_types].index(descriptor.name)]


# Where the class comes from


def _class_of_schema(rule: TopicRule) -> Any:
    schema = rule.schema or ""
    if is_class(schema):
        return _generated_class(schema)
    if schema.endswith(".proto"):
        raise ConfigurationError(
            f"topic {rule.topic!r}: {schema} must be compiled first: {_HOW_TO_COMPILE}"
        )
    return _class_of_set(rule, Path(schema))


def _generated_class(name: str) -> Any:
    module, _, cls = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"schema {name!r} cannot be imported: {error}") from error
    if not hasattr(found, "DESCRIPTOR"):
        raise ConfigurationError(f"schema {name!r} is not a generated Protobuf message")
    return found


def _class_of_set(rule: TopicRule, path: Path) -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.message import DecodeError

    try:
        files = list(FileDescriptorSet.FromString(path.read_bytes()).file)
    except (OSError, DecodeError) as error:
        raise ConfigurationError(
            f"topic {rule.topic!r}: {path} is no descriptor set ({error}); {_HOW_TO_COMPILE}"
        ) from error
    if not files:
        raise ConfigurationError(f"topic {rule.topic!r}: the descriptor set {path} is empty")
    # protoc writes imports before what imports them, so the last file is the one it was given.
    return _class_in(_pool_of(files), files[-1].name, rule.message, str(path))


def _class_of_registry(registration: Registration, found: RegisteredSchema) -> Any:
    files = [*_referenced(registration, found), _file("outbox-relay-main.proto", found)]
    if None in files:
        raise ConfigurationError(
            f"{registration.in_words}: the registry gives this schema as text; "
            f"{_HOW_TO_COMPILE}, with version = 1 (or another) if the lookup by content fails"
        )
    rule = registration.rule
    return _class_in(_pool_of(files), files[-1].name, rule.message, registration.in_words)


def _referenced(registration: Registration, found: RegisteredSchema) -> Iterator[Any]:
    for reference in found.schema.references or ():
        inner = registration.registry.get_version(
            str(reference.subject), int(reference.version or 1), False, _SERIALIZED
        )
        yield from _referenced(registration, inner)
        yield _file(str(reference.name), inner)


def _file(name: str, found: RegisteredSchema) -> Any:
    """Return a registered schema as a descriptor, None if it comes as text."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import DecodeError

    try:
        data = base64.b64decode(found.schema.schema_str or "", validate=True)
        file = FileDescriptorProto.FromString(data)
    except (binascii.Error, DecodeError, ValueError):
        return None
    file.name = name
    return file


def _pool_of(files: list[Any]) -> Any:
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    known = {file.name for file in files}
    added: set[str] = set()
    for file in files:
        for dependency in file.dependency:
            if dependency not in known:
                _add_builtin(pool, dependency, added)
        if file.name not in added:
            pool.Add(file)
            added.add(file.name)
    return pool


def _add_builtin(pool: Any, name: str, added: set[str]) -> None:
    """Add a file that comes with Protobuf or its companions, such as google/type/money.proto."""
    if name in added:
        return
    module = name.removesuffix(".proto").replace("/", ".") + "_pb2"
    try:
        descriptor = importlib.import_module(module).DESCRIPTOR
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"Protobuf: the import {name!r} cannot be found") from error
    for dependency in descriptor.dependencies:
        _add_builtin(pool, dependency.name, added)
    pool.AddSerializedFile(descriptor.serialized_pb)
    added.add(name)


def _class_in(pool: Any, file: str, message: str | None, where: str) -> Any:
    from google.protobuf.message_factory import GetMessageClass

    names = list(pool.FindFileByName(file).message_types_by_name.values())
    if message is None and len(names) != 1:
        known = ", ".join(each.full_name for each in names) or "none"
        raise ConfigurationError(f"{where}: name the message with message = …; there are {known}")
    try:
        found = names[0] if message is None else pool.FindMessageTypeByName(message)
    except KeyError:
        raise ConfigurationError(f"{where}: there is no message {message!r}") from None
    return GetMessageClass(found)


def _require_protobuf() -> None:
    try:
        importlib.import_module("confluent_kafka.schema_registry.protobuf")
    except ImportError as error:
        raise MissingExtra(
            'encoding as Protobuf needs more: run `pip install "outbox-relay[protobuf]"`'
        ) from error
