"""librdkafka's own log lines."""

from __future__ import annotations

import logging

import pytest

from outbox.inbox.repeats import SparingLog


def test_a_line_that_repeats_is_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    # Given
    now = 100.0
    log = SparingLog(logging.getLogger("outbox.test"), every_s=30.0, clock=lambda: now)

    # When a broker is away for a while, and something else happens
    for milliseconds in range(50):
        log.log(logging.ERROR, "%s [%s] %s", "FAIL", "consumer-1", f"after {milliseconds}ms")
    log.log(logging.WARNING, "another line")
    now += 29.9
    log.log(logging.ERROR, "FAIL [consumer-1] after 3ms")
    now += 0.2
    log.log(logging.ERROR, "FAIL [consumer-1] after 100%")
    log.log(logging.ERROR, "FAIL [consumer-1] after 4ms")

    # Then
    assert caplog.messages == [
        "FAIL [consumer-1] after 0ms",
        "another line",
        "FAIL [consumer-1] after 100%",
        "FAIL [consumer-1] after 4ms (and 50 more like it)",
    ]


def test_what_is_remembered_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    log = SparingLog(logging.getLogger("outbox.test"), clock=lambda: 0.0)
    for number in range(1000):
        log.log(logging.ERROR, "line %s", "x" * number)
    assert len(caplog.messages) == 1000
    assert len(log._said) <= 256
