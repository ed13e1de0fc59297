"""Wheel and sdist hold all they need and nothing else, and work where nothing else is."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from outbox.version import __version__
from tests.packages.environments import Environment, run
from tests.packages.recipes import ROOT

pytestmark = pytest.mark.slow

#: The SQL of this checkout, by its path within a wheel.
MIGRATIONS = {
    f"outbox/_migrations/{path.relative_to(ROOT / 'migrations')}": path.read_bytes()
    for path in (ROOT / "migrations").rglob("*.sql")
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from the checkout and the wheel from the sdist; return where they are."""
    directory = tmp_path_factory.mktemp("dist")
    done = run([sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT)], directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (found,) = built.glob("*.tar.gz")
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [each for each in archive.namelist() if each.endswith(name)]
        return archive.read(path).decode()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    return Parser().parsestr(read(wheel, ".dist-info/METADATA"))


def test_the_names_say_what_it_is(wheel: Path, sdist: Path) -> None:
    assert wheel.name == f"outbox_relay-{__version__}-py3-none-any.whl"
    assert sdist.name == f"outbox_relay-{__version__}.tar.gz"


def test_the_wheel_holds_the_package_its_types_and_its_sql(wheel: Path) -> None:
    names = names_in(wheel)
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "outbox").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert {*modules, *MIGRATIONS, "outbox/py.typed"} <= names
    assert MIGRATIONS
    with zipfile.ZipFile(wheel) as archive:
        assert all(archive.read(name) == text for name, text in MIGRATIONS.items())


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names_in(wheel)}
    assert tops == {"outbox", f"outbox_relay-{__version__}.dist-info"}
    endings = {Path(name).suffix for name in names_in(wheel) if name.startswith("outbox/")}
    assert "__pycache__" not in "".join(names_in(wheel))
    assert not {name for name in names_in(wheel) if Path(name).name.startswith("test_")}
    assert ".pyc" not in endings


def test_the_sdist_holds_what_the_wheel_is_built_from_and_its_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "deploy/Dockerfile"}
    sql = {name.replace("outbox/_migrations", "migrations") for name in MIGRATIONS}
    assert wanted | sql <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", ".cache"))]


def test_the_commands_are_those_of_the_checkout(wheel: Path) -> None:
    assert "outbox-relay = outbox.cli.main:main" in read(wheel, "entry_points.txt")


def test_an_index_would_take_the_metadata(wheel: Path) -> None:
    """As strictly as an index that refuses what it does not understand."""
    checked = Metadata.from_email(read(wheel, ".dist-info/METADATA"), validate=True)
    assert (checked.name, str(checked.version)) == ("outbox-relay", __version__)
    assert str(checked.requires_python) == ">=3.11"
    assert "Typing :: Typed" in (checked.classifiers or [])
    assert checked.license_expression == "MIT"
    assert {"relay", "postgresql", "kafka", "otel", "all"} <= set(checked.provides_extra or [])


def test_an_index_would_render_the_description(metadata: Message) -> None:
    markdown = pytest.importorskip("readme_renderer.markdown")
    assert metadata["Description-Content-Type"] == "text/markdown"
    rendered = markdown.render(metadata.get_payload())
    assert rendered is not None
    assert ">outbox-relay<" in rendered


def test_a_wheel_from_the_checkout_is_the_one_from_the_sdist(wheel: Path, tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)], tmp_path
    )
    assert done.returncode == 0, done.stderr
    (direct,) = tmp_path.glob("*.whl")
    assert names_in(direct) == names_in(wheel)


def test_the_core_alone_writes_messages_and_says_what_a_relay_needs(
    wheel: Path, tmp_path: Path
) -> None:
    # Given an environment with nothing but the wheel
    alone = Environment.make(tmp_path / "alone")
    alone.install(str(wheel))
    # Then messages can be written, with the tables from the wheel
    written = alone.python(
        "import sqlite3, outbox\n"
        "from outbox import Outbox\n"
        "from outbox.migrations import migrate\n"
        "migrate('sqlite:///log.db')\n"
        "c = sqlite3.connect('log.db')\n"
        "with c: Outbox().add(c, 'orders', {'order': 1}, key='ada')\n"
        "print(c.execute('select topic, payload from outbox_message').fetchall())\n"
        "c.close()\n"
        "assert 'site-packages' in outbox.__file__"
    )
    assert written == """[('orders', b'{"order":1}')]"""
    # And the command says what it lacks
    refused = alone("outbox-relay", "run")
    assert refused.returncode == 78
    assert 'pip install "outbox-relay[relay]"' in refused.stderr


def test_with_everything_installed_the_demo_runs(wheel: Path, tmp_path: Path) -> None:
    # Given an environment with the wheel and its extras
    full = Environment.make(tmp_path / "full")
    full.install(f"{wheel}[all]")
    # Then the demo ends well, from the wheel alone
    shown = full("outbox-relay", "demo")
    assert shown.returncode == 0, shown.stderr
    assert "0 lost" in shown.stdout.splitlines()[-1]
    # And so does what the demo has no need of: metrics
    assert full.python(
        "from outbox.metrics.monitor import RelayMonitor\n"
        "from outbox.metrics.prometheus import Exposition\n"
        "print(b'outbox_build_info' in Exposition(RelayMonitor('a').figures).render('')[0])"
    )
