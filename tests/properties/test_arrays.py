"""Arrays of simple values, made the quick way, are what the careful way makes of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outbox.writer.insert import _element, array

TEXTS = st.text('ab"\\,{} é', max_size=5)
VALUES = st.one_of(
    st.lists(TEXTS),
    st.lists(st.text("abc,{} é", max_size=5)),
    st.lists(st.binary(max_size=4)),
    st.lists(st.one_of(st.none(), TEXTS)),
    st.lists(st.one_of(st.none(), st.binary(max_size=4))),
)


@given(VALUES)
def test_the_quick_way_and_the_careful_way_agree(values: list[str | bytes | None]) -> None:
    assert array(values) == "{" + ",".join(map(_element, values)) + "}"
