"""Tables and listings of the site that are made from the code, so that they cannot be out of date.

A page says ```` ```{from-code} settings ```` and gets what the function of that name returns, as
Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

Row = Sequence[object]


def settings() -> str:
    """Every setting of the commands."""
    from outbox.cli.options import setting
    from outbox.config.keys import KEYS

    def meaning(name: str) -> str:
        command = setting(name)(lambda: None)
        return str(command.__click_params__[0].help).partition("  [default")[0]  # type: ignore[attr-defined]  # click's own place for it

    return _table(
        ("`outbox.toml`", "Flag", "Variable", "Default", "Meaning"),
        [
            (
                f"`{key.name}`",
                f"`{key.flag}`",
                f"`{key.variable}`",
                "" if key.default in (None, "") else f"`{key.default}`",
                meaning(key.name),
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
    from outbox.headers import RESERVED, RESERVED_PREFIX

    rows = [(f"`{name}`", f"{reason}") for name, reason in RESERVED.items()]
    rows.append((f"`{RESERVED_PREFIX}position`", "given at publication, by the relay"))
    return _table(("Header", "Where its value comes from"), rows)


def errors() -> str:
    """Every error, with the exit code of a command that ends with it."""
    from outbox import errors as module

    classes = [getattr(module, name) for name in module.__all__]
    return _table(
        ("Error", "Exit code", "Meaning"),
        [(f"`{cls.__name__}`", cls.exit_code, _first_line(cls)) for cls in classes],
    )


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


LISTINGS: dict[str, Callable[[], str]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        settings,
        owned_properties,
        default_properties,
        headers,
        errors,
        writer_columns,
        ddl,
        grants,
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


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n\n")[0]
