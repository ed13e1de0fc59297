"""The README is true: its snippets run, as they stand there, against real servers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from outbox import ConfigurationError, errors
from outbox.cli.app import COMMANDS
from outbox.config.keys import KEYS
from outbox.inbox import Inbox
from tests.acceptance.test_demo import VERIFIED
from tests.docs.markdown import ROOT, Block, blocks, broken_links, table
from tests.docs.walk import Walk

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.postgresql import PostgreSQLServer

README = ROOT / "README.md"
FOLDERS = "outbox|migrations|tests|scripts|docs|benchmarks|examples"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


class ReadmeWalk(Walk):
    """Walks through the README; a relay and a consumer stop when they have done their work."""

    def take(self, block: Block) -> None:
        if block.language == "sql":
            self._insert(block)
            return
        super().take(block)

    def _insert(self, block: Block) -> None:
        payload = r'{"order":6,"path":"C:\\new"}'  # text in a bytea column would lose a backslash
        with psycopg.connect(self.database("shop")) as connection:
            values = [self.topic("orders"), "ada", payload]
            psycopg.RawCursor(connection).execute(block.text, values)

    def _command(self, block: Block, command: list[str]) -> None:
        until = self._relayed(command[-1]) or self._billed(block)
        out = self.run(command, until=until)
        assert block.output in (None, out)

    def _relayed(self, line: str) -> Callable[[], bool] | None:
        if not line.startswith("outbox-relay run") or "--drain" in line:
            return None
        return lambda: len(self.kafka.read(self.topic("orders"))) == len(self.log())

    def _billed(self, block: Block) -> Callable[[], bool] | None:
        if "stop=stop" not in block.text:
            return None
        return lambda: len(self.bills()) == len(self.log())

    def log(self) -> list[str]:
        """Return the ids of all messages that were written to PostgreSQL."""
        with psycopg.connect(self.database("shop")) as connection:
            query = "select id::text from outbox_message order by seq"
            return [id_ for (id_,) in connection.execute(query)]

    def bills(self) -> list[str]:
        """Return the message ids of all bills; none before their table is made."""
        with psycopg.connect(self.database("billing")) as connection:
            if connection.execute("select to_regclass('bill')").fetchone() == (None,):
                return []
            return [id_ for (id_,) in connection.execute("select message_id from bill")]


@pytest.fixture
def walk(
    tmp_path: Path, postgresql_server: PostgreSQLServer, kafka: KafkaServer
) -> Iterator[ReadmeWalk]:
    """Give a walk through the README that has not begun."""
    with ReadmeWalk(tmp_path, postgresql_server, kafka) as walk:
        yield walk


def test_every_snippet_works_in_the_order_of_the_readme(walk: ReadmeWalk) -> None:
    # When
    for block in blocks(README):
        print(f"README.md, {block.name}")  # the last one printed is the one that failed
        walk.take(block)

    # Then everything that the snippets wrote to PostgreSQL has arrived, in order for each key
    messages = walk.kafka.read(walk.topic("orders"))
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


def test_settings_that_are_called_not_built_raise() -> None:
    assert 'Inbox(mode="position")' in NOT_BUILT
    with pytest.raises(ConfigurationError, match="not available in this version"):
        Inbox("billing", mode="position")  # type: ignore[arg-type] # that is the point


def test_commands_that_are_called_not_built_do_not_exist() -> None:
    line = next(line for line in NOT_BUILT.splitlines() if line.startswith("- The command"))
    named = re.findall(r"`([a-z]+)`", line)
    assert named
    assert not set(named) & set(COMMANDS)
