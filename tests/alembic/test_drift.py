"""What autogenerate cannot see, it says at least."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from outbox.migrations import migrate
from tests.alembic.project import Project, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Read from the stream: the fileConfig() of env.py takes pytest's own handlers away.
WARNING = "are not what they should be"


def test_nothing_is_said_of_tables_that_are_right(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    project.begin("add_tables(metadata)")
    project.autogenerate()
    project.upgrade()
    project.check()
    assert WARNING not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("alter table outbox_message drop constraint outbox_message_topic_check", "topic_check"),
        ("alter table outbox_message alter seq drop default", "column outbox_message.seq"),
        ("alter sequence outbox_message_seq cache 100", "cache 100"),
        ("drop table outbox_message_3", "table outbox_message_3 is missing"),
    ],
)
def test_drift_is_said_by_autogenerate_and_check(
    new_project: Callable[..., Project],
    postgresql_url: str,
    capfd: pytest.CaptureFixture[str],
    damage: str,
    named: str,
) -> None:
    # Given tables that somebody changed
    project = new_project(postgresql_url.replace("://", "+psycopg://")).begin(
        "add_tables(metadata)"
    )
    project.autogenerate()
    project.upgrade()
    project.run(damage)
    # When Alembic is asked, then it says what is wrong, once, and proposes nothing
    capfd.readouterr()
    project.check()
    said = [line for line in capfd.readouterr().err.splitlines() if WARNING in line]
    assert len(said) == 1
    assert named in said[0]
    assert "migrate --check" in said[0]


def test_drift_is_said_on_sqlite(
    new_project: Callable[..., Project], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    project = new_project(f"sqlite:///{tmp_path}/shop.db").begin("add_tables(metadata)")
    migrate(plain(project.url))
    project.run("alter table outbox_message drop column key_id")
    capfd.readouterr()
    assert "outbox" not in project.autogenerate()
    assert "outbox_message" in capfd.readouterr().err


def test_who_cannot_make_temporary_tables_is_told_so(
    new_project: Callable[..., Project], postgresql_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Autogenerate works without them, only the comparison does not."""
    project = new_project(postgresql_url.replace("://", "+psycopg://")).begin(
        "add_tables(metadata)"
    )
    project.autogenerate()
    project.upgrade()
    read_only = project.url + "?options=-cdefault_transaction_read_only%3Don"
    replace(project, url=read_only).check()
    assert "could not be checked" in capfd.readouterr().err
