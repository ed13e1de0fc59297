"""Tables and listings of the site that are made from the code, so that they cannot be out of date.

A page says ```` ```{from-code} settings ```` and gets what the function of that name returns, as
Markdown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

Row = Sequence[object]

DEPLOY = Path(__file__).parents[2] / "deploy"
DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


def settings() -> str:
    """Every setting of the commands."""
    from outbox.config.keys import KEYS

    return _table(
        ("`outbox.toml`", "Flag", "Variable", "Default", "Meaning"),
        [
            (
                f"`{key.name}`",
                f"`{key.flag}`",
                f"`{key.variable}`",
                _default(key.default),
                _meaning(key.name),
            )
            for key in KEYS
        ],
    )


def owned_properties() -> str:
    """The properties of librdkafka that cannot be set."""
    from outbox.publishers.kafka import OWNED

    return _table(
        ("Property", "Value"), [(f"`{name}`", f"`{value}`") for name, value in OWNED.items()]
    )


def default_properties() -> str:
    """The properties of librdkafka that have another default than librdkafka's."""
    from outbox.publishers.kafka import DEFAULTS

    return _table(
        ("Property", "Default"), [(f"`{name}`", f"`{value}`") for name, value in DEFAULTS.items()]
    )


def headers() -> str:
    """The headers that the relay sets."""
    from outbox.headers import EDITED_FROM, RESERVED, RESERVED_PREFIX

    rows = [(f"`{name}`", f"{reason}") for name, reason in RESERVED.items()]
    rows.append((f"`{RESERVED_PREFIX}position`", "given at publication, by the relay"))
    rows.append((f"`{EDITED_FROM}`", "the message that it replaces, where an operator edited it"))
    return _table(("Header", "Where its value comes from"), rows)


def errors() -> str:
    """Every error, with the exit code of a command that ends with it."""
    from outbox import errors as module

    classes = [getattr(module, name) for name in module.__all__]
    return _table(
        ("Error", "Exit code", "Meaning"),
        [(f"`{cls.__name__}`", cls.exit_code, _first_line(cls)) for cls in classes],
    )


def exit_codes() -> str:
    """Every code that a command ends with."""
    from outbox.cli.exit_codes import EXIT_CODES

    return _table(("Code", "Meaning"), [(str(code), what) for code, what in EXIT_CODES.items()])


def writer_columns() -> str:
    """The columns that a writer may set."""
    from outbox.writer.insert import COLUMNS

    return _table(
        ("Column", "Type in PostgreSQL"),
        [(f"`{name}`", f"`{kind}`") for name, kind in COLUMNS.items()],
    )


def ddl() -> str:
    """The SQL of all tables, for PostgreSQL."""
    from outbox.migrations import PLAIN_NAMES, sql

    return "```postgresql\n" + sql("postgresql", PLAIN_NAMES) + "\n```"


def grants() -> str:
    """The SQL that gives two roles what each needs."""
    from outbox.migrations import PLAIN_NAMES
    from outbox.migrations import grants as statements

    text = statements(PLAIN_NAMES, writer_role="shop_writer", relay_role="shop_relay")
    return f"```postgresql\n{text}\n```"


def topic_rules() -> str:
    """Every key of a table [topics."…"]."""
    from outbox.config.topic_rules import TopicRule

    fields = {field.name: field for field in dataclasses.fields(TopicRule)}
    meanings = {
        "encode": "`avro`, `protobuf`, `json-schema`, or `none`",
        "schema": "a file beside `outbox.toml`; for Protobuf a descriptor set, or a generated "
        "class as `module:Class`. Without it the schema that the registry has",
        "message": "for Protobuf: the full name of the message in the schema",
        "register": "whether the relay registers `schema`; else it must be there",
        "subject": "the subject that holds the schema",
        "subject_strategy": "how a subject is named that `subject` does not name: `topic` "
        "(`TOPIC-value`), `record` (the schema's name), `topic-record`",
        "version": "the version to take; without it the newest",
        "schema_id": "where the schema's id goes: in front of the `value`, or into a `header`",
        "unknown_fields": "fields that the schema does not have: `refuse` the message, or `ignore` "
        "them",
        "assume_json": "take payloads without a content type for JSON, and encode them too",
        "content_type": "what the header `content-type` says; by default that of the format",
        "types": 'tables `[topics."TOPIC".types."TYPE"]`: what is different for a type of messages',
    }
    _check_same(meanings, fields.keys() - {"topic"})
    return _table(
        ("Key", "Default", "Meaning"),
        [(f"`{name}`", _default(fields[name].default), meanings[name]) for name in meanings],
    )


def registry_properties() -> str:
    """Every key of the table [registry]."""
    from outbox.config.registry_properties import _KNOWN, VARIABLE_PREFIX

    return _table(
        ("Key", "Variable"),
        [(f"`{name}`", f"`{VARIABLE_PREFIX}{name.upper().replace('.', '_')}`") for name in _KNOWN],
    )


def metrics() -> str:
    """Every metric of a relay."""
    from outbox.metrics.catalogue import METRICS

    return _table(
        ("Metric", "Kind", "Meaning"),
        [
            (
                f"`{metric.prometheus_name}`",
                " by ".join([metric.kind, *(f"`{label}`" for label in metric.labels)]),
                metric.meaning,
            )
            for metric in METRICS
        ],
    )


def alerts() -> str:
    """The alert rules that come along."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text("utf-8"))
    return _table(
        ("Alert", "When", "What to know"),
        [
            (
                f"`{rule['alert']}` ({rule['labels']['severity']})",
                f"`{' '.join(rule['expr'].split())}`"
                + (f" for {rule['for']}" if "for" in rule else ""),
                rule["annotations"]["description"],
            )
            for group in rules["groups"]
            for rule in group["rules"]
        ],
    )


def http_endpoints() -> str:
    """Every path that a relay answers."""
    from outbox.http.endpoints import endpoints

    meanings = {
        "/livez": "the loop goes round. Servers that are away do not count: a restart would not "
        "bring them back",
        "/readyz": "the settings are right, the tables were found and fit, and it was not told to "
        "stop. Neither an outage nor being on standby counts",
        "/healthz": "all of that, and it waits for nothing: messages flow, or would if there were "
        "any. The body tells everything it knows",
        "/metrics": "always: the figures for Prometheus, or as OpenMetrics to who asks for it",
    }
    _check_same(meanings, endpoints(cast("Any", None), cast("Any", None)))
    return _table(
        ("Path", "200 means (503 otherwise)"),
        [(f"`{path}`", meaning) for path, meaning in meanings.items()],
    )


def database_faults() -> str:
    """Whose fault each error of a database is."""
    from outbox.database_faults import SQLITE_CODES, SQLSTATES, DatabaseFault

    def codes(table: dict[str, DatabaseFault], fault: DatabaseFault) -> str:
        return ", ".join(f"`{code}`" for code, found in table.items() if found is fault)

    return _table(
        ("Whose fault", "What happens", "SQLSTATE", "SQLite"),
        [
            (fault.value, fault.what_happens, codes(SQLSTATES, fault), codes(SQLITE_CODES, fault))
            for fault in DatabaseFault
        ],
    )


def faults() -> str:
    """Whose fault each error of Kafka's is."""
    from outbox.publishers.faults import FAULTS, Fault

    return _table(
        ("Whose fault", "What happens", "Errors, by librdkafka's names"),
        [
            (
                fault.value,
                fault.what_happens,
                ", ".join(f"`{name}`" for name, found in FAULTS.items() if found is fault),
            )
            for fault in Fault
        ],
    )


def retry_rules() -> str:
    """Every key of the table [retry]."""
    from outbox.config.retry_rules import RetryPolicy

    meanings = {
        "delay": "`exponential` doubles from `first_s` to `max_s`, of which it waits between half "
        "and the whole; `fixed`; or `random`, between the two",
        "first_s": "the delay after the first failure, in seconds",
        "max_s": "the longest delay, in seconds",
        "max_attempts": 'after so many a message is dead; `"never"`: it is tried for ever',
        "max_age_s": "a message that was held, or requeued, longer ago is dead after its next "
        "failure",
        "after_failure": "`block`: later messages of its key wait; `skip`: they overtake it",
    }
    fields = {field.name: field for field in dataclasses.fields(RetryPolicy)}
    _check_same(meanings, fields)
    return _table(
        ("Key", "Default", "Meaning"),
        [(f"`{name}`", _default(fields[name].default), meanings[name]) for name in meanings],
    )


def doctor_checks() -> str:
    """Every check of the doctor."""
    from outbox.doctor.check import GROUPS
    from outbox.doctor.registry import CHECKS

    return "\n".join(
        f"\n**{group}**\n\n"
        + _table(
            ("Check", "Looks at", "What to do"),
            [
                (
                    f"`{check.id}`" + (f" ({DATABASES[check.database]})" if check.database else ""),
                    check.looks_at,
                    check.advice,
                )
                for check in CHECKS
                if check.group == group
            ],
        )
        for group in GROUPS
    )


def django_settings() -> str:
    """Every key of Django's OUTBOX."""
    from outbox.django.settings import KNOWN
    from outbox.writer.outbox import MAX_MESSAGE_BYTES

    meanings = {
        "SCHEMA": ("`None`", "PostgreSQL's schema of the tables; `None`: the search path"),
        "TABLE_PREFIX": ("`''`", "what the names of the tables begin with"),
        "DATABASES": ("all", "the aliases that have the tables; left out, the routers decide"),
        "MAX_MESSAGE_BYTES": (f"`{MAX_MESSAGE_BYTES:_}`", "the limit of key, payload and headers"),
        "SERIALIZER": ("JSON", "a serializer, its class, or the dotted path of either"),
        "LANES": ("any", "the lanes that a message may name"),
        "KAFKA": ("`{}`", "librdkafka's properties, for the commands"),
        "RELAY": ("`{}`", "the settings of the commands, in capitals; see below"),
    }
    _check_same(meanings, KNOWN)
    return _table(
        ("Key", "Default", "Meaning"),
        [(f"`{key}`", default, meaning) for key, (default, meaning) in meanings.items()],
    )


def django_relay_keys() -> str:
    """What OUTBOX["RELAY"] may hold."""
    from outbox.django.settings import RELAY_KEYS

    return _table(
        ("Key of `RELAY`", "Default", "Meaning"),
        [
            (f"`{name}`", _default(key.default), _meaning(key.name))
            for name, key in RELAY_KEYS.items()
        ],
    )


def django_checks() -> str:
    """Every system check."""
    from outbox.django.checks import IDS

    return _table(
        ("Id", "Meaning"),
        [(f"`outbox_relay.{number}`", meaning) for number, meaning in IDS.items()],
    )


def flask_keys() -> str:
    """Every key of app.config."""
    from outbox.config.keys import KEYS
    from outbox.flask.settings import unknown_keys
    from outbox.writer.outbox import MAX_MESSAGE_BYTES

    settings = {key.variable: key for key in KEYS}
    others = {
        "OUTBOX_KAFKA": ("`{}`", "librdkafka's properties, for the commands"),
        "OUTBOX_MAX_MESSAGE_BYTES": (
            f"`{MAX_MESSAGE_BYTES:_}`",
            "the limit of key, payload and headers",
        ),
        "OUTBOX_LANES": ("any", "the lanes that a message may name"),
    }
    _check_same((), unknown_keys(dict.fromkeys((*settings, *others))))
    return _table(
        ("Key of `app.config`", "Default", "Meaning"),
        [
            *((f"`{name}`", *told) for name, told in others.items()),
            *(
                (f"`{name}`", _default(key.default), _meaning(key.name))
                for name, key in settings.items()
            ),
        ],
    )


def fixtures() -> str:
    """Every fixture of the pytest plugin."""
    from outbox import pytest_plugin

    found = {
        name: thing
        for name, thing in vars(pytest_plugin).items()
        if isinstance(thing, type(pytest_plugin.kafka_mock))
    }
    return _table(
        ("Fixture", "What it is"),
        [(f"`{name}`", _first_line(thing)) for name, thing in found.items()],
    )


LISTINGS: dict[str, Callable[[], str]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        settings,
        owned_properties,
        default_properties,
        headers,
        errors,
        exit_codes,
        writer_columns,
        ddl,
        grants,
        topic_rules,
        registry_properties,
        metrics,
        alerts,
        http_endpoints,
        faults,
        database_faults,
        retry_rules,
        doctor_checks,
        django_settings,
        django_relay_keys,
        django_checks,
        flask_keys,
        fixtures,
    )
}


class FromCode(Directive):
    """Puts a listing into a page."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the parsed listing."""
        name = self.arguments[0]
        if name not in LISTINGS:
            raise self.error(f"no listing {name!r}; there are {', '.join(LISTINGS)}")
        parent = nodes.Element()
        lines = LISTINGS[name]().splitlines()
        self.state.nested_parse(StringList(lines, f"<{name}>"), self.content_offset, parent)
        return parent.children


def setup(app: Sphinx) -> dict[str, object]:
    """Register the directive."""
    app.add_directive("from-code", FromCode)
    return {"parallel_read_safe": True, "version": "1"}


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _check_same(told: Iterable[str], there_are: Iterable[str]) -> None:
    """Fail the build where the words here are not about what there is."""
    if set(told) != set(there_are):
        raise ValueError(f"told are {sorted(told)}, and there are {sorted(there_are)}")


def _default(value: object) -> str:
    if value is dataclasses.MISSING:
        return "needed"
    return "" if value in (None, "", ()) else f"`{str(value).lower()}`"


def _meaning(name: str) -> str:
    """Return what the help of the commands says of a setting."""
    from outbox.cli.options import setting

    command = setting(name)(lambda: None)
    return str(command.__click_params__[0].help).partition("  [default")[0]  # type: ignore[attr-defined]  # click's own place for it


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n\n")[0]
