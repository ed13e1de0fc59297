"""Drain a backlog, as a ratio to faststream-outbox in the same run.

With asyncpg and uvloop, and librdkafka behind it, in a virtual environment of its own. With more
than one worker it keeps no order; ours does.
"""

from __future__ import annotations

from benchmarks.program import options
from benchmarks.rivals.python_package import PythonPackage
from benchmarks.rivals.reporting import Drain, run

FILL = """
insert into rival.outbox (queue, payload, headers)
select 'outbox', convert_to(repeat('x', %(bytes)s), 'UTF8'),
       jsonb_build_object(
           'topic', %(topic)s::text, 'key', 'key-' || g %% %(keys)s::int,
           'traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')
  from generate_series(1, %(messages)s) as g
"""


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 100_000, "the backlog"),
        repetitions=(int, 3, "how often both are measured"),
        workers=(int, 32, "of faststream-outbox; 1 keeps the order"),
        batch_size=(int, 1_000, "of faststream-outbox"),
        delete_at_once=(int, 100, "rows that a worker deletes together"),
    )
    arguments = parser.parse_args()
    names = ("workers", "batch_size", "delete_at_once")
    settings = {name: getattr(arguments, name) for name in names}
    package = PythonPackage("faststream_outbox", FILL, settings)
    run(Drain("B3f", "faststream-outbox", None, package.fetched, package.conditions), arguments)


if __name__ == "__main__":
    main()
