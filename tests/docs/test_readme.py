"""The README is true: its snippets run, as they stand there, against real servers."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from outbox import ConfigurationError, InvalidMessage, Message, errors
from outbox.cli.app import COMMANDS
from outbox.config.settings import KEYS, load
from outbox.inbox import Inbox
from tests.acceptance.command import PROGRAM, environment
from tests.acceptance.test_demo import VERIFIED
from tests.docs.markdown import ROOT, Block, blocks, broken_links, table
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.postgresql import PostgreSQLServer

README = ROOT / "README.md"
FOLDERS = "outbox|migrations|tests|scripts|docs|benchmarks|examples"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


class Walk:
    """Runs the README's blocks in their order, in one directory and against one set of servers.

    Where the README says `localhost/shop`, `localhost:9092` or "orders", the walk has a database,
    a broker and a topic of its own.
    """

    def __init__(self, directory: Path, shop: str, billing: str, kafka: KafkaServer) -> None:
        self.directory = directory
        self.shop, self.billing, self.kafka = shop, billing, kafka
        self.topic = kafka.create_topic(partitions=3)
        self._names = itertools.count(1)
        self._make_command()

    def _make_command(self) -> None:
        program = self.directory / "bin" / "outbox-relay"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
        program.chmod(0o755)

    def take(self, block: Block) -> None:
        {"sh": self._shell, "python": self._python, "sql": self._sql, "text": _nothing}[
            block.language
        ](block)

    def _shell(self, block: Block) -> None:
        for line in block.text.splitlines():
            if line.startswith("pip install"):
                _check_extras(line)
            elif line.startswith("scripts/"):
                assert os.access(ROOT / line, os.X_OK), f"{line} cannot be run"
            else:
                self._run(["bash", "-euc", f"exec {self._here(line)}"], until=self._relayed(line))

    def _python(self, block: Block) -> None:
        script = self.directory / f"snippet_{next(self._names)}.py"
        script.write_text(self._here(block.text))
        out = self._run([sys.executable, "-W", "error", script.name], until=self._billed(block))
        assert block.output in (None, out)

    def _sql(self, block: Block) -> None:
        payload = r'{"order":6,"path":"C:\\new"}'  # text in a bytea column would lose a backslash
        with psycopg.connect(self.shop) as connection:
            psycopg.RawCursor(connection).execute(block.text, [self.topic, "ada", payload])

    def _run(self, command: list[str], *, until: Callable[[], bool] | None) -> str:
        """Run a command to its end, or until a condition holds and then tell it to stop."""
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        with subprocess.Popen(
            command,
            cwd=self.directory,
            env=environment(PATH=path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                if until is not None:
                    _wait(until, process, " ".join(command))
                    process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 0, err
        return out

    def _here(self, text: str) -> str:
        for place, name in ((self.shop, "shop"), (self.billing, "billing")):
            text = text.replace(f"postgresql://localhost/{name}", place)
            alchemy = place.replace("postgresql://", "postgresql+psycopg://", 1)
            text = text.replace(f"postgresql+psycopg://localhost/{name}", alchemy)
        assert "localhost/" not in text
        text = text.replace("localhost:9092", self.kafka.bootstrap_servers)
        return text.replace('"orders"', f'"{self.topic}"')

    def _relayed(self, line: str) -> Callable[[], bool] | None:
        if not line.startswith("outbox-relay run") or "--drain" in line:
            return None
        return lambda: len(self.kafka.read(self.topic)) == len(self.log())

    def _billed(self, block: Block) -> Callable[[], bool] | None:
        if "stop=stop" not in block.text:
            return None
        return lambda: len(self.bills()) == len(self.log())

    def log(self) -> list[str]:
        """Return the ids of all messages that were written to PostgreSQL."""
        with psycopg.connect(self.shop) as connection:
            query = "select id::text from outbox_message order by seq"
            return [id_ for (id_,) in connection.execute(query)]

    def bills(self) -> list[str]:
        """Return the message ids of all bills; none before their table is made."""
        with psycopg.connect(self.billing) as connection:
            if connection.execute("select to_regclass('bill')").fetchone() == (None,):
                return []
            return [id_ for (id_,) in connection.execute("select message_id from bill")]


@pytest.fixture
def walk(
    tmp_path: Path, postgresql_server: PostgreSQLServer, postgresql_url: str, kafka: KafkaServer
) -> Iterator[Walk]:
    """Give a walk through the README that has not begun."""
    billing = postgresql_server.create_database()
    yield Walk(tmp_path, postgresql_url, billing, kafka)
    postgresql_server.drop_database(urlsplit(billing).path[1:])


def test_every_snippet_works_in_the_order_of_the_readme(walk: Walk) -> None:
    # When
    for block in blocks(README):
        print(f"README.md, {block.name}")  # the last one printed is the one that failed
        walk.take(block)

    # Then everything that the snippets wrote to PostgreSQL has arrived, in order for each key
    messages = walk.kafka.read(walk.topic)
    orders = [(message.key().decode(), json.loads(message.value())) for message in messages]
    assert [order["order"] for key, order in orders if key == "ada"] == [1, 1, 6]
    assert [order["order"] for key, order in orders if key == "cleo"] == [2, 3, 4]
    assert ("ada", {"order": 6, "path": "C:\\new"}) in orders
    # And each was billed once
    assert Counter(walk.bills()) == Counter(walk.log())


def test_the_readme_has_snippets_of_each_kind() -> None:
    """Else the test above could pass because nothing was found to run."""
    kinds = Counter(block.language for block in blocks(README))
    assert kinds["python"] >= 7
    assert kinds["sh"] >= 8
    assert kinds["sql"] == 1
    assert set(kinds) == {"python", "sh", "sql", "text"}


def test_the_last_line_of_the_demo_looks_as_the_readme_says() -> None:
    shown = [block.text for block in blocks(README) if block.text.startswith("verified:")]
    assert len(shown) == 1
    assert VERIFIED.fullmatch(shown[0].strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_folders_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text("utf-8"))
    assert [path for path in named if "NNNN" not in path and not (ROOT / path).exists()] == []


def test_pages_are_called_what_the_code_calls_them() -> None:
    """Code refers to decisions by the names of their files."""
    sources = "".join(path.read_text("utf-8") for path in ROOT.glob("outbox/**/*.py"))
    referred = set(re.findall(r"docs/adr/[\w-]+\.md", sources))
    assert referred
    assert {path for path in referred if not (ROOT / path).exists()} == set()


# Tables


def test_the_table_of_settings_is_complete() -> None:
    listed = [[cell.strip("`") for cell in row[:3]] for row in table(README, "Settings")]
    assert listed == [[key.name, key.flag, key.variable] for key in KEYS]


def test_the_table_of_settings_tells_the_defaults() -> None:
    told = {row[0].strip("`"): row[3] for row in table(README, "Settings")}
    for key in KEYS:
        if key.default not in (None, ""):
            assert told[key.name].split()[0].strip("`") == str(key.default)


def test_the_table_of_exit_codes_is_complete() -> None:
    listed = {int(code) for code, _ in table(README, "Exit codes")}
    classes = [getattr(errors, name) for name in errors.__all__]
    raised = {cls.exit_code for cls in classes}
    assert listed == raised | {0, 1, 2, 6}


# What is not built


NOT_BUILT = README.read_text("utf-8").partition("\n## Not built yet\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("delay", timedelta(seconds=1)),
        ("deliver_at", datetime(2030, 1, 1, tzinfo=UTC)),
        ("expires_at", datetime(2030, 1, 1, tzinfo=UTC)),
        ("wait_for", "shipment"),
    ],
)
def test_arguments_that_are_called_not_built_raise(argument: str, value: object) -> None:
    assert f"`{argument}`" in NOT_BUILT
    with pytest.raises(InvalidMessage, match="not available in this version"):
        Message("orders", {}, **{argument: value})


def test_settings_that_are_called_not_built_raise(tmp_path: Path) -> None:
    assert "--delivery exactly-once" in NOT_BUILT
    with pytest.raises(ConfigurationError, match="not available in this version"):
        load({"delivery": "exactly-once"}, {}, tmp_path)
    assert 'Inbox(mode="position")' in NOT_BUILT
    with pytest.raises(ConfigurationError, match="not available in this version"):
        Inbox("billing", mode="position")  # type: ignore[arg-type] # that is the point


def test_commands_that_are_called_not_built_do_not_exist() -> None:
    line = next(line for line in NOT_BUILT.splitlines() if line.startswith("- The commands"))
    named = re.findall(r"`([a-z]+)`", line)
    assert named
    assert not set(named) & set(COMMANDS)


def _nothing(_: Block) -> None:
    """Text is for people."""


def _check_extras(line: str) -> None:
    """Check that the extras of a `pip install` exist; that it works, the demo's script shows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    match = re.fullmatch(r'pip install "\.\[(?P<extras>[a-z,-]+)\]"', line)
    assert match, line
    assert set(match["extras"].split(",")) <= set(project["optional-dependencies"])


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    wait_until(lambda: process.poll() is not None or condition(), what=f"the effect of {what}")
    assert process.poll() is None, f"{what} ended: {process.communicate()}"
