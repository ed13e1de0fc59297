"""Paging through fresh and late messages loses none, repeats none and keeps the order of seq."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from outbox.store.postgresql.merging import before_heavy, merge
from outbox.store.postgresql.snapshot import Snapshot

MESSAGES = st.lists(
    st.tuples(st.integers(1, 300), st.booleans(), st.integers(1, 50)),
    unique_by=lambda message: message[0],
    max_size=60,
)


def select(messages: Any, late: bool, after: int, max_rows: int, max_bytes: int) -> list[Any]:
    """What the database answers: in order of seq, cut at the bounds, with a running total."""
    rows: list[Any] = []
    total = 0
    for seq, is_late, weight in sorted(messages):
        if is_late is not late or seq <= after:
            continue
        if len(rows) == max_rows or total >= max_bytes:
            break
        total += weight
        rows.append((seq, total))
    return rows


@given(messages=MESSAGES, max_rows=st.integers(1, 8), max_bytes=st.integers(1, 150))
def test_pages_hold_every_message_once_in_order(
    messages: Any, max_rows: int, max_bytes: int
) -> None:
    read: list[int] = []
    after = 0
    for _ in range(1 + 2 * len(messages)):
        parts = [select(messages, late, after, max_rows, max_bytes) for late in (False, True)]
        page, exhausted = merge(parts, max_rows, max_bytes)
        read += [row[0] for row in page]
        if exhausted:
            break
        assert page, "a page that is not the last is never empty"
        assert len(page) <= max_rows
        after = read[-1]

    assert read == sorted(seq for seq, _, _ in messages)


@given(messages=MESSAGES, max_rows=st.integers(1, 8), max_bytes=st.integers(1, 150))
def test_without_late_messages_a_page_is_what_was_selected(
    messages: Any, max_rows: int, max_bytes: int
) -> None:
    selected = select(messages, False, 0, max_rows, max_bytes)
    page, exhausted = merge([selected], max_rows, max_bytes)

    assert page is selected
    beyond = [m for m in messages if not m[1] and (not page or m[0] > page[-1][0])]
    assert not (exhausted and beyond), "said to be all while there is more"


@given(heavy=st.lists(st.booleans(), max_size=12), max_rows=st.integers(1, 8))
def test_pages_end_before_heavy_messages_and_then_with_them(
    heavy: list[bool], max_rows: int
) -> None:
    read: list[int] = []
    while True:
        after = len(read)
        rows: list[Any] = [(seq, 900 * heavy[seq]) for seq in range(after, len(heavy))][:max_rows]
        page, exhausted = before_heavy(rows, max_rows)
        assert not any(total for _, total in page)
        assert page or exhausted or heavy[after]
        read += [seq for seq, _ in page]
        if exhausted:
            break
        if not page:  # now it is asked for with a bound
            read.append(after)

    assert read == list(range(len(heavy)))


IDS = st.integers(3, 60)


@st.composite
def snapshots(draw: Any) -> tuple[Snapshot, Snapshot]:
    """Two snapshots of one history: some transactions run at the first, and fewer at the second."""
    xmax = draw(IDS)
    running = frozenset(draw(st.sets(st.integers(3, max(3, xmax - 1)))))
    later_xmax = xmax + draw(st.integers(0, 20))
    still = frozenset(draw(st.sets(st.sampled_from(sorted(running))))) if running else frozenset()
    new = frozenset(draw(st.sets(st.integers(xmax, max(xmax, later_xmax - 1)))))
    new = frozenset(xid for xid in new if xid < later_xmax)
    return (
        Snapshot(min(running, default=xmax), xmax, frozenset(x for x in running if x < xmax)),
        Snapshot(min(still | new, default=later_xmax), later_xmax, still | new),
    )


def visible(xid: int, snapshot: Snapshot) -> bool:
    return xid < snapshot.xmax and xid not in snapshot.running


@given(snapshots())
def test_fresh_and_late_together_are_what_became_visible(pair: tuple[Snapshot, Snapshot]) -> None:
    last, target = pair
    for xid in range(3, target.xmax + 5):
        fresh = xid >= last.xmax and visible(xid, target)
        late = xid in target.ended_since(last)
        became_visible = visible(xid, target) and not visible(xid, last)
        assert (fresh or late) == became_visible
        assert not (fresh and late)


@given(snapshots())
def test_a_snapshot_survives_its_text(pair: tuple[Snapshot, Snapshot]) -> None:
    assert all(Snapshot.parse(str(snapshot)) == snapshot for snapshot in pair)
