"""`llms.txt`: all pages in one plain list, a line each, for readers who are programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

MOST_CHARACTERS = 200


def setup(app: Sphinx) -> dict[str, object]:
    """Write the list when the pages are there."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "version": "1"}


def write(app: Sphinx, failure: Exception | None) -> None:
    """Write the list of a site that was built."""
    if failure is None and app.builder.format == "html":
        text = "\n".join([f"# {app.config.project}", "", *_lines(app)])
        Path(app.outdir, "llms.txt").write_text(text + "\n", "utf-8")


def _lines(app: Sphinx) -> Iterator[str]:
    for page in _in_order(app.env, "index"):
        title = app.env.titles[page].astext()
        yield f"- [{title}]({app.builder.get_target_uri(page)}): {_beginning(app.env, page)}"


def _in_order(env: BuildEnvironment, page: str) -> Iterator[str]:
    yield page
    for inner in env.toctree_includes.get(page, []):
        yield from _in_order(env, inner)


def _beginning(env: BuildEnvironment, page: str) -> str:
    """Return the first sentence of a page."""
    paragraphs = env.get_doctree(page).findall(nodes.paragraph)
    first = next(paragraphs, nodes.paragraph()).astext()
    sentence = re.split(r"(?<=[.!?]) ", " ".join(first.split()))[0]
    return sentence if len(sentence) <= MOST_CHARACTERS else f"{sentence[:MOST_CHARACTERS]}…"
