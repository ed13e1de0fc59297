"""What an assertion says when it fails: what was added instead, nearest first."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pprint import pformat

from outbox.testing.log import AddedMessage
from outbox.testing.matching import Expected, as_json, containing, is_predicate

#: A test that added thousands of messages needs no list of them all.
MAX_SHOWN = 10

_MAX_COMPARED = 100
_MAX_PAYLOAD = 300
_WIDTH = 80


def missing(expected: Expected, added: Sequence[AddedMessage]) -> str:
    """Say that nothing that was added is what was expected."""
    return "\n".join([f"no message was added{expected}", *_instead(expected, added)])


def wrong_count(
    expected: Expected, count: int, fitting: Sequence[AddedMessage], added: Sequence[AddedMessage]
) -> str:
    """Say how many were added, and what else."""
    was = _was(fitting) + (":" if fitting else "")
    lines = [f"{_number(count)} should have been added{expected}, and {len(fitting)} {was}"]
    lines += [f"  {shown(message)}" for message in fitting[:MAX_SHOWN]]
    lines += _left_out(len(fitting))
    others = [message for message in added if message not in fitting]
    return "\n".join([*lines, *_instead(expected, others)])


def unwanted(expected: Expected, fitting: Sequence[AddedMessage]) -> str:
    """Say what was added and should not have been."""
    lines = [f"no message should have been added{expected}, and {len(fitting)} {_was(fitting)}:"]
    lines += [f"  {shown(message)}" for message in fitting[:MAX_SHOWN]]
    return "\n".join([*lines, *_left_out(len(fitting))])


def shown(message: AddedMessage) -> str:
    """Return a message in one line."""
    parts = [f"{message.topic}: key={message.key!r}, payload={_short(message.data)}"]
    if message.type is not None:
        parts.append(f"type={message.type!r}")
    if message.headers:
        named = dict(message.headers)
        unique = len(named) == len(message.headers)
        parts.append(f"headers={named if unique else message.headers!r}")
    if message.deliver_at is not None:
        parts.append(f"deliver_at={message.deliver_at.isoformat()}")
    if message.wait_for is not None:
        parts.append(f"wait_for={message.wait_for!r}")
    return ", ".join(parts)


def nearest_first(expected: Expected, added: Sequence[AddedMessage]) -> list[AddedMessage]:
    """Sort by how little differs: the topic counts most, then how many things, then how much."""

    def distance(message: AddedMessage) -> tuple[bool, int]:
        differences = expected.differences(message)
        return "topic" in differences, len(differences)

    near = sorted(added, key=distance)
    # Comparing texts takes time, and of those far away none is shown.
    head, rest = near[:_MAX_COMPARED], near[_MAX_COMPARED:]
    head.sort(key=lambda message: (*distance(message), -_likeness(expected, message)))
    return head + rest


def _likeness(expected: Expected, message: AddedMessage) -> float:
    wanted = f"{expected.topic} {expected.key} {_plain(expected.payload)}"
    actual = f"{message.topic} {message.key} {message.data}"
    return difflib.SequenceMatcher(None, wanted[:1000], actual[:1000]).ratio()


def _instead(expected: Expected, added: Sequence[AddedMessage]) -> Iterator[str]:
    if not added:
        yield "nothing else was added"
        return
    yield f"{_number(len(added))} {_was(added)} added otherwise, nearest first:"
    for message in nearest_first(expected, added)[:MAX_SHOWN]:
        yield f"  {shown(message)}"
        yield from (f"      {line}" for line in _differences(expected, message))
    yield from _left_out(len(added))


def _differences(expected: Expected, message: AddedMessage) -> Iterator[str]:
    names = expected.differences(message)
    if "topic" in names:
        return  # of a message for another topic the line above says enough
    for name in names:
        wanted, actual = _compared(name, getattr(expected, name), message)
        if is_predicate(wanted):
            yield f"{name}: the function says no"
        else:
            yield f"{name} (- expected, + added):"
            yield from (f"  {line}" for line in _diff(wanted, actual))


def _compared(name: str, wanted: object, message: AddedMessage) -> tuple[object, object]:
    if name == "payload":
        return wanted, message.data
    if name == "headers" and isinstance(wanted, dict):
        return containing(wanted), dict(message.headers)
    return wanted, getattr(message, name)


def _diff(wanted: object, actual: object) -> Iterator[str]:
    """Return a diff by line, each item of a mapping on a line of its own."""
    lines = difflib.ndiff(_lines(_plain(wanted)), _lines(_asked_for(wanted, actual)))
    return (line for line in lines if not line.startswith("?"))


def _asked_for(wanted: object, actual: object) -> object:
    """Leave out what is not looked at."""
    if isinstance(wanted, containing) and isinstance(wanted.part, dict):
        wanted = wanted.part
        if isinstance(actual, dict):
            actual = {name: value for name, value in actual.items() if name in wanted}
    if isinstance(wanted, dict) and isinstance(actual, dict):
        return {name: _asked_for(wanted.get(name), value) for name, value in actual.items()}
    return actual


def _lines(value: object) -> list[str]:
    """Return the value as it is in Python, its parts on lines of their own."""
    if isinstance(value, dict) and value:
        parts = [(f"{name!r}: ", value[name]) for name in sorted(value, key=repr)]
        return ["{", *_indented(parts), "}"]
    if isinstance(value, list | tuple) and value:
        return ["[", *_indented([("", element) for element in value]), "]"]
    return pformat(value, width=_WIDTH).splitlines()


def _indented(parts: list[tuple[str, object]]) -> Iterator[str]:
    for name, value in parts:
        first, *more = _lines(value)
        yield from (f"  {line}" for line in [name + first, *more][:-1])
        yield f"  {([name + first, *more])[-1]},"


def _plain(value: object) -> object:
    """Return what is contained in place of what says so, and JSON in place of what serializes."""
    if isinstance(value, containing):
        return _plain(value.part)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return as_json(value)


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= _MAX_PAYLOAD else f"{text[:_MAX_PAYLOAD]}… ({len(text)} characters)"


def _number(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _was(messages: Sequence[object]) -> str:
    return "was" if len(messages) == 1 else "were"


def _left_out(count: int) -> list[str]:
    return [f"  … and {count - MAX_SHOWN} more"] if count > MAX_SHOWN else []
