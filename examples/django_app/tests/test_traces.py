"""A trace as Jaeger tells it becomes a waterfall."""

from __future__ import annotations

from orders.traces import waterfall


def span(name: str, start: int, duration: int, parent: str = "", service: str = "p1") -> dict:
    references = [{"refType": "CHILD_OF", "traceID": "t", "spanID": parent}] if parent else []
    links = [{"refType": "FOLLOWS_FROM", "traceID": "t", "spanID": "elsewhere"}]
    return {
        "spanID": name,
        "operationName": name,
        "references": [*links, *references],
        "startTime": start,
        "duration": duration,
        "tags": [],
        "processID": service,
    }


def test_children_stand_below_their_parents_in_the_order_of_time() -> None:
    bars = waterfall(
        {
            "spans": [
                span("late", 1_600, 400, parent="root", service="p2"),
                span("root", 1_000, 1_000),
                span("inner", 1_300, 100, parent="early"),
                span("early", 1_250, 250, parent="root"),
            ],
            "processes": {"p1": {"serviceName": "shop"}, "p2": {"serviceName": "billing-relay"}},
        }
    )
    assert [(bar.name, bar.depth) for bar in bars] == [
        *(("root", 0), ("early", 1), ("inner", 2), ("late", 1))
    ]
    assert [(bar.start, bar.width) for bar in bars] == [(0, 100), (25, 25), (30, 10), (60, 40)]
    assert (bars[3].at_ms, bars[3].took_ms, bars[3].family) == (0.6, 0.4, "billing")


def test_a_span_whose_parent_has_not_arrived_is_shown_all_the_same() -> None:
    [bar] = waterfall(
        {"spans": [span("a", 1, 0, parent="?")], "processes": {"p1": {"serviceName": "shop"}}}
    )
    assert (bar.depth, bar.start, bar.width) == (0, 0, 0)


def test_a_trace_without_spans_is_empty() -> None:
    assert waterfall({"spans": [], "processes": {}}) == []
