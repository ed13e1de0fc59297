"""The site is true: its snippets run, its reference is whole, and it builds without a warning."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.docs.markdown import ROOT, Block, blocks
from tests.docs.walk import ELSEWHERE, TOPICS, Walk, check_elsewhere

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.postgresql import PostgreSQLServer

DOCS = ROOT / "docs"
GUARANTEES = DOCS / "guarantees.md"
#: Decisions tell of what was, and show what was rejected.
PAGES = sorted(path for path in DOCS.glob("**/*.md") if path.parent.name != "adr")


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language not in ("text", "")]


WALKED = [page for page in PAGES if runnable(page)]


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS).with_suffix(""))


@pytest.mark.parametrize("page", WALKED, ids=name_of)
def test_every_snippet_works_in_the_order_of_the_page(
    page: Path, tmp_path: Path, postgresql_server: PostgreSQLServer, kafka: KafkaServer
) -> None:
    with Walk(tmp_path, postgresql_server, kafka) as walk:
        for block in blocks(page):
            print(f"{page.name}, {block.name}")  # the last one printed is the one that failed
            walk.take(block)


def test_pages_have_snippets_of_each_kind() -> None:
    """Else the test above could pass because nothing was found to run."""
    kinds = Counter(block.language for page in PAGES for block in runnable(page))
    assert kinds["python"] >= 10
    assert kinds["sh"] >= 10
    assert kinds["toml"] >= 1


def test_no_block_is_skipped_that_could_run(tmp_path: Path) -> None:
    """A comment may say that a block runs elsewhere only where it calls one of a few commands."""
    block = Block("sh", "outbox-relay status\n", 1, comment="elsewhere: too lazy")
    with pytest.raises(AssertionError, match="can be run here"):
        check_elsewhere(block)
    assert "python" not in ELSEWHERE
    assert "orders" in TOPICS


@pytest.mark.parametrize("page", WALKED, ids=name_of)
def test_readers_see_into_which_file_a_block_goes(page: Path) -> None:
    """The comment that says so to the walk is none that a page shows."""
    markdown = page.read_text("utf-8")
    for found in re.finditer(r"^<!-- (?:file|append): (\S+) -->$", markdown, re.MULTILINE):
        before = markdown[: found.start()].rstrip().rpartition("\n")[2]
        assert found[1].rpartition("/")[2] in before, f"{found[1]} is not named above its block"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    settings = (tmp_path / "reference" / "settings.html").read_text("utf-8")
    assert "--poll-interval" in settings
    assert "OUTBOX_DATABASE_URL" in settings
    pages = (tmp_path / "llms.txt").read_text("utf-8")
    assert [page for page in map(name_of, PAGES) if f"({page}.html): " not in pages] == []


def test_every_line_of_the_guarantees_is_shown_by_tests_that_exist() -> None:
    rows = [line for line in GUARANTEES.read_text("utf-8").splitlines() if line.startswith("| ")]
    told = [row for row in rows if not row.startswith(("| What happens", "| ---"))]
    assert len(told) >= 35
    known = _names_of_tests()
    for row in told:
        named = re.findall(r"`(test_\w+)`", row.rstrip(" |").rpartition("|")[2])
        assert named, f"no test shows: {row}"
        assert [name for name in named if name not in known] == [], row


def _names_of_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").glob("**/*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {name for name in found if name.startswith("test_")}
