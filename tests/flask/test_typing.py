"""What type checkers know of the extension."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

USE = """
from sqlalchemy.orm import Session
from flask import Flask

from outbox.flask import FlaskOutbox, transactions
from outbox.inbox import InboxConsumer, ReceivedMessage

events = FlaskOutbox()

def write(session: Session) -> str:
    return events.add(session, "orders", {"order": 1}, key=1, type="order.placed").topic

def mistaken(session: Session) -> None:
    events.add(session, "orders", {}, kye=1)
    events.add(session, 5, {})

def handle(session: Session, message: ReceivedMessage) -> None: ...

def consume(app: Flask) -> None:
    consumer = InboxConsumer(
        events.inbox("billing"), transaction_factory=transactions(app), kafka={}, topics=["orders"]
    )
    consumer.run(handle)
    consumer.run(write)
"""


def test_the_signature_of_an_outbox_is_known_to_mypy(tmp_path: Path) -> None:
    # Given a program with mistakes in three places
    program = tmp_path / "use.py"
    program.write_text(USE)

    # When
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)],
        capture_output=True,
        text=True,
    )

    # Then those are found, and nothing else
    errors = [line.split(":")[1] for line in checked.stdout.splitlines() if ": error:" in line]
    lines = USE.splitlines()
    found = [lines[int(number) - 1].strip() for number in errors]
    assert found == [
        'events.add(session, "orders", {}, kye=1)',
        "events.add(session, 5, {})",
        "consumer.run(write)",
    ], checked.stdout
