"""B5: the cost of `Outbox.add`, as a ratio to the bare INSERT of the same row.

Both take turns in one open transaction, which is rolled back at the end.
"""

from __future__ import annotations

from benchmarks.program import Found, options, run
from outbox.bench.adding import adding_rows


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 200, "messages in a block"),
        repetitions=(int, 300, "blocks of each"),
    )
    run(
        "B5",
        parser,
        lambda place, asked: Found(adding_rows(place, asked.messages, asked.repetitions)),
    )


if __name__ == "__main__":
    main()
