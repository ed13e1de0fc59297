"""The examples' READMEs are true, and the examples' own tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.running.services import BILLING, RELAY, SHOP
from tests.acceptance.command import ROOT
from tests.docs.markdown import blocks, broken_links, table
from tests.examples.running import EXAMPLES, environment_of

APPS = ["django_app", "flask_app"]
READMES = [EXAMPLES / "README.md", *(EXAMPLES / app / "README.md" for app in APPS)]

each_readme = pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
each_app = pytest.mark.parametrize("app", APPS)


@each_readme
def test_links_lead_somewhere(readme: Path) -> None:
    assert broken_links(readme) == []


@each_readme
def test_it_is_one_page(readme: Path) -> None:
    assert len(readme.read_text("utf-8").splitlines()) <= 90


@each_app
def test_code_in_a_readme_is_code_of_the_example(app: str) -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (EXAMPLES / app).rglob("*.py"))
    for block in blocks(EXAMPLES / app / "README.md"):
        if block.language == "python":
            assert block.text in sources, block.text


def test_the_shops_readme_shows_the_code_that_matters() -> None:
    code = "".join(
        block.text
        for block in blocks(EXAMPLES / "django_app" / "README.md")
        if block.language == "python"
    )
    assert "transaction.atomic()" in code
    assert " add(" in code


@each_readme
def test_commands_in_a_readme_exist(readme: Path) -> None:
    for block in blocks(readme):
        for script in re.findall(r"^\s*(examples/\S+)$", block.text, re.MULTILINE):
            assert os.access(Path(ROOT, script), os.X_OK), script
        for file in re.findall(r"--file (\S+)", block.text):
            assert Path(ROOT, file).exists(), file


def test_the_processes_are_those_that_are_started() -> None:
    rows = table(EXAMPLES / "README.md", "What runs")
    said = {name: command.strip("`") for name, command, _ in rows}
    for service in (SHOP, BILLING):
        web = " ".join(service.web("…", 0)).replace("--listen=…:0", "…")
        assert said[f"{service.name} web"] == web
        assert said[f"{service.name} consumer"] == " ".join(service.consumer)
        assert said[f"{service.name} relay"] == " ".join(RELAY)
    assert len(said) == 6


@each_app
def test_variables_in_a_readme_are_read(app: str) -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (EXAMPLES / app).rglob("*.py"))
    readme = (EXAMPLES / app / "README.md").read_text("utf-8")
    named = set(re.findall(r"`([A-Z][A-Z_]+_[A-Z_]+)`", readme)) - {"FLASK_APP", "INSTALLED_APPS"}
    assert "KAFKA_BOOTSTRAP_SERVERS" in named
    assert {name for name in named if name not in sources} == set()


@each_app
def test_pictures_are_there_and_small(app: str) -> None:
    picture = (EXAMPLES / app / "screenshot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert 20_000 < len(picture) < 200_000
    assert "](screenshot.png)" in (EXAMPLES / app / "README.md").read_text("utf-8")


@pytest.mark.slow
@each_app
def test_the_examples_own_tests_pass(app: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"examples/{app}"],
        cwd=ROOT,
        env=environment_of({"TMPDIR": str(tmp_path)}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
