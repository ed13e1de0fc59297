"""B3: drain a backlog, as a ratio to the fastest Python package that we know, in the same run.

txoutbox, with asyncpg and uvloop, and librdkafka behind it, in a virtual environment of its own.
Its time runs from the first message that is seen in the topic to the last; ours runs from the first
statement to the last acknowledgement.
"""

from __future__ import annotations

from benchmarks.program import options
from benchmarks.rivals.python_package import PythonPackage
from benchmarks.rivals.reporting import Drain, run

FILL = """
insert into rival.outbox (topic, key, payload, headers)
select %(topic)s, 'key-' || g %% %(keys)s::int, convert_to(repeat('x', %(bytes)s), 'UTF8'),
       '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
  from generate_series(1, %(messages)s) as g
"""


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 300_000, "the backlog"),
        repetitions=(int, 3, "how often both are measured"),
        batch_size=(int, 2_000, "of txoutbox"),
        concurrency=(int, 1_000, "of txoutbox"),
    )
    parser.add_argument("--unordered", action="store_true", help="without its promise of order")
    parser.add_argument("--keep", action="store_true", help="mark what is sent, not delete it")
    arguments = parser.parse_args()
    package = PythonPackage(
        "txoutbox",
        FILL,
        {
            "batch_size": arguments.batch_size,
            "concurrency": arguments.concurrency,
            "strict_ordering": not arguments.unordered,
            "delete_on_ack": not arguments.keep,
        },
    )
    run(Drain("B3", "txoutbox", 20.0, package.fetched, package.conditions), arguments)


if __name__ == "__main__":
    main()
