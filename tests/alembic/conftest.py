"""Databases and projects for the tests of migrations by Alembic."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.alembic.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ASYNCHRONOUS = ("aiosqlite", "asyncpg", "psycopg-async")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what the fileConfig() of env.py does to the loggers of this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    states = {name: logging.getLogger(name).disabled for name in logging.root.manager.loggerDict}
    yield
    root.handlers[:], root.level = handlers, level
    for name, disabled in states.items():
        logging.getLogger(name).disabled = disabled
    for name in ("alembic", "sqlalchemy.engine"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def new_project(tmp_path: Path) -> Callable[..., Project]:
    """Give `new_project(url, name="project", template="generic")`."""

    def make(url: str, name: str = "project", template: str = "generic") -> Project:
        (tmp_path / name).mkdir()
        return Project(tmp_path / name, url, template)

    return make


@pytest.fixture(params=["sqlite", pytest.param("psycopg", marks=pytest.mark.postgresql)])
def project(
    request: pytest.FixtureRequest, tmp_path: Path, new_project: Callable[..., Project]
) -> Project:
    """Give a project on each kind of database."""
    return new_project(url_for(request.param, request, tmp_path))


@pytest.fixture(
    params=[
        "aiosqlite",
        *(
            pytest.param(driver, marks=pytest.mark.postgresql)
            for driver in ("psycopg-async", "asyncpg", "psycopg2")
        ),
    ]
)
def project_of_driver(
    request: pytest.FixtureRequest, tmp_path: Path, new_project: Callable[..., Project]
) -> Project:
    """Give a project on each of the other drivers, with Alembic's template for it."""
    driver = request.param.removesuffix("-async")
    if find_spec(driver) is None:
        pytest.skip(f"{driver} is not installed")
    template = "async" if request.param in ASYNCHRONOUS else "generic"
    return new_project(url_for(driver, request, tmp_path), template=template)


def url_for(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if driver == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    if driver == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    url: str = request.getfixturevalue("postgresql_url")
    return url.replace("postgresql://", f"postgresql+{driver}://")
