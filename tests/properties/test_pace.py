"""The limit of a relay's rate is kept in every window, and holds nobody back for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outbox.relay.pace import BURST_S, Pace

RATES = st.floats(0.1, 1e6)

#: How long the relay takes between two looks, and how much of what it may take is there.
LOOKS = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), max_size=60)


def relayed(pace: Pace, looks: list[tuple[float, float]], size: int) -> list[tuple[float, int]]:
    """Play a relay that looks at these times; return what it sent and when."""
    now, sent = 0.0, []
    for pause, part in looks:
        now += pause
        allowed = pace.allowance(now)
        count = 0 if allowed is None else min(int(allowed.messages * part), 10**9)
        if count:
            pace.spend(count, count * size)
            sent.append((now, count))
    return sent


@given(RATES, LOOKS)
def test_no_window_has_more_messages_than_the_rate_and_one_burst(
    rate: float, looks: list[tuple[float, float]]
) -> None:
    sent = relayed(Pace(rate, None, 0.0), looks, size=1)

    for first, (begin, _) in enumerate(sent):
        total = 0
        for end, count in sent[first:]:
            total += count
            burst = max(rate * BURST_S, 1.0)
            assert total <= (burst + rate * (end - begin)) * (1 + 1e-6) + 1e-6


@given(RATES, st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10**7)), max_size=60))
def test_no_window_has_more_bytes_than_the_rate_one_burst_and_one_message(
    rate: float, looks: list[tuple[float, int]]
) -> None:
    # Given a relay that takes pages within the allowance, or one message however large it is
    pace, now = Pace(None, rate, 0.0), 0.0
    sent = []
    for pause, size in looks:
        now += pace.wait_s(now) + pause
        allowed = pace.allowance(now)
        assert allowed is not None
        pace.spend(1, size)
        sent.append((now, size))

    # Then what goes beyond the burst in a window is its last message at the most
    for first, (begin, _) in enumerate(sent):
        total = 0.0
        for end, size in sent[first:]:
            burst = max(rate * BURST_S, 1.0)
            assert total <= (burst + rate * (end - begin)) * (1 + 1e-6) + 1e-6
            total += size


@given(RATES, RATES, LOOKS, st.floats(0, 1e9))
def test_who_waits_as_long_as_was_said_may_send(
    messages: float, size: float, looks: list[tuple[float, float]], debt: float
) -> None:
    pace = Pace(messages, size, 0.0)
    relayed(pace, looks, size=1000)
    pace.spend(0, int(debt))
    now = sum(pause for pause, _ in looks)

    now += pace.wait_s(now)
    allowed = pace.allowance(now) or pace.allowance(now + pace.wait_s(now))

    assert allowed is not None
    assert allowed.messages >= 1
    assert allowed.bytes >= 1


@given(RATES, st.lists(st.floats(-1e6, 1e6), max_size=40))
def test_a_clock_that_jumps_gives_no_more_than_a_burst_and_stops_nothing(
    rate: float, jumps: list[float]
) -> None:
    pace, now = Pace(rate, None, 0.0), 0.0
    for jump in jumps:
        now += jump
        allowed = pace.allowance(now)
        if allowed is not None:
            assert allowed.messages <= max(rate * BURST_S, 1.0) + 1
            pace.spend(allowed.messages, 0)
        else:
            # However far the clock went back, the wait is that of an empty bucket.
            assert pace.wait_s(now) <= max(0.1, 1 / rate) * (1 + 1e-6) + 1 / rate


def test_a_relay_that_is_always_busy_comes_to_the_rate() -> None:
    pace, now, count = Pace(100.0, None, 0.0), 0.0, 0
    while now < 60.0:
        now += max(pace.wait_s(now), 0.001)
        allowed = pace.allowance(now)
        if allowed is not None:
            pace.spend(allowed.messages, 0)
            count += allowed.messages

    assert 100 * 60 <= count <= 100 * 61 + 1


def test_an_empty_bucket_gives_no_pages_of_single_messages() -> None:
    pace = Pace(1000.0, None, 0.0)
    pace.spend(1000, 0)

    assert pace.allowance(0.05) is None
    allowed = pace.allowance(0.1)
    assert allowed is not None
    assert allowed.messages == 100


def test_without_a_limit_of_bytes_only_messages_count() -> None:
    pace = Pace(10.0, None, 0.0)
    pace.spend(1, 10**12)

    assert pace.allowance(0.0) is not None
