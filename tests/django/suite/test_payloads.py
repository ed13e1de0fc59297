"""A payload as the admin shows it."""

from __future__ import annotations

import pytest

from outbox.django.payloads import MAX_HEX, MAX_SHOWN, shown_payload


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (None, "(tombstone: no payload)"),
        (b'{"a":"\xc3\xa9"}', '{\n  "a": "é"\n}'),
        (memoryview(b"plain"), "plain"),
        (b"", ""),
        (b"\xff\x00\xab\xcd\xef", "ff00abcd ef"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_each_kind_has_its_form(payload: bytes | None, shown: str) -> None:
    assert shown_payload(payload) == shown


def test_what_is_long_is_cut_and_says_so() -> None:
    text, raw = shown_payload(b"x" * (MAX_SHOWN + 1)), shown_payload(b"\xff" * (MAX_HEX + 1))

    assert text.endswith("x\n… (100,001 bytes in all)")
    assert raw.endswith("ffffffff\n… (1,025 bytes in all)")
