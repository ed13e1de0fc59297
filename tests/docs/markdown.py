"""What a Markdown file holds: its fenced blocks, tables, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"(?:^<!-- (?P<said>[a-z]+: .+?) -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: A block that Sphinx fills: ```{directive}
_DIRECTIVE = re.compile(r"^(```+)\{.*?^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:)(?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block. `output` is the block of language `text` that follows it at once, or None."""

    language: str
    text: str
    line: int
    output: str | None = None
    comment: str | None = None

    def said(self, word: str) -> str | None:
        """Return what the comment before the block says after a word and a colon."""
        key, _, value = (self.comment or "").partition(": ")
        return value if key == word else None

    @property
    def name(self) -> str:
        return f"line-{self.line}-{self.language}"


def blocks(path: Path) -> list[Block]:
    """Return all fenced blocks, each `text` block as the output of the one right before it."""
    markdown = _DIRECTIVE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text("utf-8"))
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(markdown):
        between = markdown[end : match.start()].strip()
        end = match.end()
        line = markdown.count("\n", 0, match.start("language")) + 1
        if match["language"] == "text" and found and not between:
            found.append(replace(found.pop(), output=match["text"]))
        else:
            found.append(Block(match["language"], match["text"], line, comment=match["said"]))
    return found


def table(path: Path, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its header."""
    section = path.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def broken_links(path: Path) -> list[str]:
    """Return the links to files and headings of this repository that lead nowhere."""
    markdown = _FENCE.sub("", path.read_text("utf-8"))
    return [match["target"] for match in _LINK.finditer(markdown) if not _leads(path, match[1])]


def _leads(path: Path, target: str) -> bool:
    file, _, anchor = target.partition("#")
    wanted = path.parent / file if file else path
    return wanted.exists() and (not anchor or anchor in _anchors(wanted))


def _anchors(path: Path) -> set[str]:
    headings = (match["text"] for match in _HEADING.finditer(path.read_text("utf-8")))
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
