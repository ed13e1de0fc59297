"""What the benchmarks against others count, and what they do about a rival that cannot be had."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.rivals import arrivals, fetching
from benchmarks.rivals.debezium_connect import versions
from benchmarks.rivals.fetching import RivalUnavailable


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTBOX_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Arriving:
    """A topic and a clock: each look at the topic is at the next time, and finds so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: tuple[float, int]) -> None:
        self._looks = iter(looks)
        self._now = 0.0
        clock = SimpleNamespace(perf_counter=lambda: self._now, sleep=lambda _: None)
        monkeypatch.setattr(arrivals, "time", clock)

    def count(self) -> int:
        self._now, found = next(self._looks)
        return found


def test_what_had_arrived_at_the_first_look_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a sender that has sent 40 messages before it is first seen, at 7 seconds
    arriving = Arriving(monkeypatch, (5, 0), (7, 40), (8, 70), (10, 100))
    # When it drains 100
    found = arrivals.drained(arriving.count, 100, os.getpid(), look=lambda: None)
    # Then the other 60 took three seconds
    assert found.per_second == 20.0


@pytest.mark.parametrize(
    ("seen", "said"), [((40, 101), "101 messages arrived instead of 100"), ((100, 100), "too few")]
)
def test_what_says_nothing_is_no_result(
    seen: tuple[int, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving = Arriving(monkeypatch, (1, seen[0]), (2, seen[1]))
    with pytest.raises(SystemExit, match=said):
        arrivals.drained(arriving.count, 100, os.getpid(), look=lambda: None)


def test_a_sender_that_stands_still_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    arriving = Arriving(monkeypatch, (0, 0), (1, 40), (2, 40), (130, 40))
    with pytest.raises(SystemExit, match="nothing arrived for 120"):
        arrivals.drained(arriving.count, 100, os.getpid(), look=lambda: None)


def test_a_sender_that_failed_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> None:
        raise RuntimeError("the connector failed")

    arriving = Arriving(monkeypatch, (0, 0), (2, 0), (4, 0))
    with pytest.raises(RuntimeError, match="the connector failed"):
        arrivals.drained(arriving.count, 100, os.getpid(), look=look)


def test_what_could_not_be_fetched_is_unavailable_and_tried_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a Maven that fails, and says why
    programs = tmp_path / "bin"
    programs.mkdir()
    maven = programs / "mvn"
    maven.write_text("#!/bin/sh\necho no such host\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    pom = tmp_path / "pom.xml"
    pom.write_text("<project/>")
    # When it is asked, then its words are told
    with pytest.raises(RivalUnavailable, match="no such host"):
        fetching.jars(pom)
    # And when it works again, it is asked again, and from then on no more
    maven.write_text(
        '#!/bin/sh\nfor each; do case $each in -Dout*) mkdir -p "${each#*=}";; esac; done\n'
    )
    found = fetching.jars(pom)
    maven.unlink()
    assert fetching.jars(pom) == found
    assert found.parent == cache


def test_a_program_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "go.mod").write_text("module x\n")
    (tmp_path / "go.sum").touch()
    with pytest.raises(RivalUnavailable, match="`go` is not installed"):
        fetching.program(tmp_path)


def test_the_report_tells_the_versions_that_are_fetched() -> None:
    assert set(versions()) == {"debezium-connector-postgres", "connect-runtime"}
