"""Find or fetch what runs Kafka: Java and the jars."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.servers.maven import fetched, java

POM = Path(__file__).parent / "kafka_jars" / "pom.xml"
INSTEAD = ", or set OUTBOX_TEST_KAFKA_BOOTSTRAP"


def java_command(*options: str) -> list[str]:
    """Return the beginning of a command that runs a class from Kafka's jars."""
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    program = java("Kafka", INSTEAD)
    # Kafka's own compile tiers cost more at the start than short tests ever get back.
    return [program, "-XX:TieredStopAtLevel=1", quiet, *options, "-cp", f"{_jars()}/*"]


@functools.cache
def _jars() -> Path:
    return fetched("Kafka", POM, "dependency:copy-dependencies", instead=INSTEAD)
