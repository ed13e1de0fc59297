"""An installation to plant faults in, and what the doctor says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from outbox.cli.app import run
from outbox.database import DatabaseUrl, connect_postgresql, connect_sqlite


@dataclass(frozen=True)
class Report:
    """What the doctor said."""

    code: int
    findings: list[dict[str, str]]

    def of(self, check: str) -> list[dict[str, str]]:
        found = [finding for finding in self.findings if finding["check"] == check]
        assert found, f"no finding of {check}"
        return found

    def outcome(self, check: str) -> str:
        (found,) = self.of(check)
        return found["outcome"]

    def only(self, check: str) -> dict[str, str]:
        """Return the finding of a check, which must be the only one of it."""
        (found,) = self.of(check)
        return found

    @property
    def problems(self) -> dict[str, str]:
        """Return the checks that found something, with what they found."""
        return {
            finding["check"]: f"{finding['outcome']}: {finding['found']}"
            for finding in self.findings
            if finding["outcome"] in ("warning", "failed")
        }


@dataclass
class Installation:
    """One database, and a broker if `bootstrap` names it."""

    url: str
    capture: pytest.CaptureFixture[str]
    bootstrap: str | None = None
    _open: list[Any] = field(default_factory=list)

    def relay(self, *arguments: str) -> int:
        """Run a command within this process."""
        broker = ["-X", f"bootstrap.servers={self.bootstrap}"]
        takes_broker = self.bootstrap and arguments[0] in ("run", "doctor")
        return run([*arguments, "--database-url", self.url, *(broker if takes_broker else [])])

    def doctor(self, *arguments: str) -> Report:
        """Return what `doctor --json` says; earlier output is dropped."""
        self.capture.readouterr()
        code = self.relay("doctor", "--json", *arguments)
        said = self.capture.readouterr()
        assert said.out, said.err
        report = json.loads(said.out)
        assert report["schema"] == "outbox.doctor/1"
        return Report(code, report["findings"])

    def held(self) -> list[dict[str, Any]]:
        """Return the messages that `held list --json` shows; earlier output is dropped."""
        self.capture.readouterr()
        assert self.relay("held", "list", "--json") == 0
        messages: list[dict[str, Any]] = json.loads(self.capture.readouterr().out)["messages"]
        return messages

    def connect(self) -> Any:
        """Open a connection in autocommit; closed at the end of the test."""
        url = DatabaseUrl.parse(self.url)
        sqlite = url.dialect == "sqlite"
        self._open.append(connect_sqlite(url.path) if sqlite else connect_postgresql(url))
        return self._open[-1]

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each by itself; return the rows of the last."""
        connection = self.connect()
        for statement in statements:
            cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    def add(
        self, topic: str = "orders", payload: str = "x", key: str | None = "k", **more: str
    ) -> None:
        """Write a message as plain SQL would; `more` are columns and SQL expressions."""
        columns = "".join(f", {name}" for name in more)
        values = "".join(f", {value}" for value in more.values())
        shown = "null" if key is None else f"'{key}'"
        sqlite = self.url.startswith("sqlite")
        body = f"cast('{payload}' as blob)" if sqlite else f"convert_to('{payload}', 'UTF8')"
        self.execute(
            f"insert into outbox_message (topic, key, payload{columns})"
            f" values ('{topic}', {shown}, {body}{values})"
        )

    @contextmanager
    def reverted(self, plant: str, revert: str) -> Iterator[None]:
        """Plant a fault that the whole server has, and take it back."""
        self.execute(plant, "select pg_reload_conf()")
        try:
            yield
        finally:
            self.execute(revert, "select pg_reload_conf()")

    def close(self) -> None:
        for connection in self._open:
            connection.close()
