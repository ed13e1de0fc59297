"""The page on trouble shows the tables that the relay decides by."""

from __future__ import annotations

import importlib.util
from collections.abc import Container
from pathlib import Path
from types import ModuleType

import pytest

from outbox.database_faults import SQLITE_CODES, SQLSTATES
from outbox.publishers.faults import FAULTS

DOCS = Path(__file__).parents[2] / "docs"


def _extension() -> ModuleType:
    place = DOCS / "_extensions" / "from_code.py"
    spec = importlib.util.spec_from_file_location("from_code", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("listing", "codes"),
    [("faults", [*FAULTS]), ("database-faults", [*SQLSTATES, *SQLITE_CODES])],
    ids=["kafka", "database"],
)
def test_the_page_has_the_table_with_every_code(listing: str, codes: list[str]) -> None:
    page = (DOCS / "operations" / "trouble.md").read_text("utf-8")
    assert f"```{{from-code}} {listing}\n" in page
    shown: Container[str] = _extension().LISTINGS[listing]()
    assert [code for code in codes if f"`{code}`" not in shown] == []
