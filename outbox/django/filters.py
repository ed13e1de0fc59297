"""The admin's filters. None of them reads the whole log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs

from django.contrib.admin import SimpleListFilter
from django.db import connections, router
from django.http import HttpRequest
from django.utils import timezone

from outbox.django.databases import has_tables
from outbox.django.models import OutboxMessage

#: How many of the newest messages are looked at for the values that a filter offers.
SAMPLE = 2_000

# Any: Django's own signatures.


def aliases() -> list[str]:
    """Return the databases that have the tables."""
    return [alias for alias in connections.settings if has_tables(alias)]


def alias_of(request: HttpRequest) -> str:
    """Return the database that a page of the admin is about.

    Below a list the address of the list is in the query string.
    """
    listed = parse_qs(request.GET.get("_changelist_filters", ""))
    asked = (
        request.GET.get(DatabaseFilter.parameter_name)
        or listed.get(DatabaseFilter.parameter_name, [""])[0]
    )
    known = aliases()
    if asked in known:
        return asked
    routed = router.db_for_read(OutboxMessage)
    return routed if routed in known or not known else known[0]


class DatabaseFilter(SimpleListFilter):
    """Which database, where there are several."""

    title = "database"
    parameter_name = "database"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        """Return the databases, if there is a choice."""
        known = aliases()
        return [(alias, alias) for alias in known] if len(known) > 1 else []

    def queryset(self, _request: HttpRequest, queryset: Any) -> Any:
        """Return it as it is: it was made for this database already."""
        return queryset

    def choices(self, changelist: Any) -> Any:
        """Yield the databases, and no `All`: they are never shown together."""
        current = changelist.root_queryset.db
        for choice in list(super().choices(changelist))[1:]:
            yield {**choice, "selected": choice["display"] == current}


class SampledFilter(SimpleListFilter):
    """The values that a column has in the newest messages."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return them in order."""
        newest = model_admin.get_queryset(request).order_by("-seq")
        values = set(newest.values_list(self.parameter_name, flat=True)[:SAMPLE])
        return [(value, value) for value in sorted(values - {None})]

    def queryset(self, _request: HttpRequest, queryset: Any) -> Any:
        """Return the messages with the value that was chosen, also when it is an old one."""
        value = self.value()
        return queryset if value is None else queryset.filter(**{str(self.parameter_name): value})


class TopicFilter(SampledFilter):
    """Topics."""

    title = "topic"
    parameter_name = "topic"


class TypeFilter(SampledFilter):
    """Types."""

    title = "type"
    parameter_name = "type"


class AgeFilter(SimpleListFilter):
    """How old."""

    title = "age"
    parameter_name = "age"

    spans: ClassVar[dict[str, timedelta]] = {
        "5min": timedelta(minutes=5),
        "1h": timedelta(hours=1),
        "24h": timedelta(hours=24),
        "7d": timedelta(days=7),
    }

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        """Return the spans, each as younger and the shortest also as older."""
        return [
            ("5min", "Last 5 minutes"),
            ("1h", "Last hour"),
            ("24h", "Last 24 hours"),
            ("7d", "Last 7 days"),
            ("-5min", "Older than 5 minutes"),
            ("-1h", "Older than an hour"),
        ]

    def queryset(self, _request: HttpRequest, queryset: Any) -> Any:
        """Return the messages written before or since."""
        value = self.value() or ""
        span = self.spans.get(value.removeprefix("-"))
        if span is None:
            return queryset
        moment = timezone.now() - span
        if value.startswith("-"):
            return queryset.filter(created_at__lt=moment)
        return queryset.filter(created_at__gte=moment)
