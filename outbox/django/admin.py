"""The admin: the log and the cursors, to look at and not to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html

from outbox.django import banner
from outbox.django.apps import LABEL
from outbox.django.filters import AgeFilter, DatabaseFilter, TopicFilter, TypeFilter, alias_of
from outbox.django.models import OutboxCursor, OutboxMessage, OutboxScheduled
from outbox.django.payloads import shown_payload
from outbox.django.state import relay_states
from outbox.errors import OutboxError
from outbox.store.base import RelayStatus

#: A list reaches back this far, so that a search among columns without an index has an end.
WINDOW = 1_000_000

#: Above this many messages a list is not counted.
MAX_COUNT = 10_000

VIEW_PAYLOAD = f"{LABEL}.view_payload"

# Any: Django's own signatures.

if TYPE_CHECKING:
    _Paginator: TypeAlias = Paginator[Any]
    _ModelAdmin: TypeAlias = admin.ModelAdmin[Any]
else:  # only the stubs have type arguments
    _Paginator, _ModelAdmin = Paginator, admin.ModelAdmin


class CappedPaginator(_Paginator):
    """Counts up to a limit; what lies behind it is reached by filters."""

    @cached_property
    def count(self) -> int:
        """Return how many there are, at most MAX_COUNT."""
        rows: Any = self.object_list
        return cast("int", rows.order_by()[:MAX_COUNT].count())


class StateChangeList(ChangeList):
    """A list with the state of the relays above it."""

    def get_results(self, request: HttpRequest) -> None:
        """Ask for the state once, for the banner and the rows."""
        super().get_results(request)
        self.states: list[RelayStatus] = []
        try:
            self.states = relay_states(self.root_queryset.db)
            self.banner = banner.lines(self.states)
        except OutboxError as error:
            # The list is worth seeing without it.
            text = f"The state of the relays cannot be read: {error}"
            self.banner = [banner.Line("warning", text)]


class MessageChangeList(StateChangeList):
    """The list of messages, with a word on where it ends."""

    def get_results(self, request: HttpRequest) -> None:
        """Say so where more messages match than the list has."""
        super().get_results(request)
        if self.result_count >= MAX_COUNT:
            text = f"More than {MAX_COUNT:,} messages match; these are the newest of them."
            self.banner.append(banner.Line("warning", text))


class CursorChangeList(StateChangeList):
    """The list of cursors, each with its state."""

    def get_results(self, request: HttpRequest) -> None:
        """Give each row its state."""
        super().get_results(request)
        states = {(state.relay, state.lane): state for state in self.states}
        self.result_list = list(self.result_list)
        for cursor in self.result_list:
            cursor.state = states.get((cursor.relay, cursor.lane))


class ReadOnlyAdmin(_ModelAdmin):
    """An admin that changes nothing, whatever the permissions are."""

    actions = None
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count, once for every choice of a filter
    paginator = CappedPaginator

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the rows of the database that was chosen."""
        return super().get_queryset(request).using(alias_of(request))

    def has_add_permission(self, *_: Any, **__: Any) -> bool:
        """Return False."""
        return False

    def has_change_permission(self, *_: Any, **__: Any) -> bool:
        """Return False."""
        return False

    def has_delete_permission(self, *_: Any, **__: Any) -> bool:
        """Return False."""
        return False


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    """The log. Payloads are for those with the permission `outbox_relay.view_payload`."""

    list_display = ("seq", "written_at", "topic", "key", "type", "message_id", "trace_id")
    list_filter = (DatabaseFilter, TopicFilter, TypeFilter, AgeFilter)
    list_per_page = 50
    list_max_show_all = 200
    sortable_by = ("seq",)  # no other column has an index
    search_fields = ("message_id", "key", "topic", "type")
    search_help_text = f"An id, key, topic or type as a whole, among the newest {WINDOW:,} messages"
    fields = (
        *("seq", "message_id", "written_at", "topic", "key", "type", "lane"),
        *("content_type", "headers", "trace_id", "traceparent", "tracestate", "pretty_payload"),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the newest messages, without what is large."""
        rows = super().get_queryset(request)
        newest = rows.order_by("-seq").values_list("seq", flat=True).first()
        return rows.filter(seq__gt=(newest or 0) - WINDOW).defer("payload", "headers")

    def get_search_results(self, _request: HttpRequest, queryset: Any, term: str) -> Any:
        """Return the messages that are, have or belong to exactly what was typed."""
        wanted = term.strip()
        if not wanted:
            return queryset, False
        matches = Q(key=wanted) | Q(topic=wanted) | Q(type=wanted)
        if message_id := _uuid(wanted):
            matches |= Q(message_id=message_id)
        return queryset.filter(matches), False

    def get_fields(self, request: HttpRequest, _message: Any = None) -> Any:
        """Return what this user may see."""
        user: Any = request.user
        allowed = user.has_perm(VIEW_PAYLOAD)
        return [name for name in self.fields if allowed or name != "pretty_payload"]

    def get_changelist(self, *_: Any, **__: Any) -> type[ChangeList]:
        """Return the list with the banner."""
        return MessageChangeList

    @admin.display(description="written at")
    def written_at(self, message: OutboxMessage) -> str:
        """Return the time with its seconds, which Django's own format leaves out."""
        moment = message.created_at
        here = timezone.localtime(moment) if settings.USE_TZ else moment
        return here.isoformat(sep=" ", timespec="seconds")

    @admin.display(description="trace id")
    def trace_id(self, message: OutboxMessage) -> str:
        """Return the part of `traceparent` that tracing tools search for."""
        parts = (message.traceparent or "").split("-")
        return parts[1] if len(parts) > 1 else ""

    @admin.display(description="payload")
    def pretty_payload(self, message: OutboxMessage) -> str:
        """Return the payload in lines."""
        return format_html(
            '<pre style="white-space: pre-wrap">{}</pre>', shown_payload(message.payload)
        )


@admin.register(OutboxScheduled)
class OutboxScheduledAdmin(ReadOnlyAdmin):
    """What waits for a time or a condition, in the order of writing."""

    list_display = ("no", "due_at", "wait_for", "topic", "key", "type", "message_id")
    list_filter = (DatabaseFilter,)
    list_per_page = 50
    sortable_by = ("no",)
    fields = (
        *("no", "message_id", "created_at", "due_at", "wait_for", "topic", "key", "type", "lane"),
        *("content_type", "headers"),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the rows without what is large."""
        return super().get_queryset(request).defer("payload")


@admin.register(OutboxCursor)
class OutboxCursorAdmin(ReadOnlyAdmin):
    """How far each relay name has come."""

    list_display = (
        "relay",
        "lane",
        "waiting",
        "oldest",
        "held_by",
        "lease",
        "cluster_id",
        "moved_at",
    )
    list_display_links = None
    list_filter = (DatabaseFilter,)
    sortable_by = ()

    def get_object(self, request: HttpRequest, object_id: str, _from_field: Any = None) -> Any:
        """Return the cursor of a relay name; on whichever lane, since there is no link to it."""
        return self.get_queryset(request).filter(relay=object_id).first()

    def get_changelist(self, *_: Any, **__: Any) -> type[ChangeList]:
        """Return the list with the banner and the states."""
        return CursorChangeList

    @admin.display(description="waiting")
    def waiting(self, cursor: Any) -> str:
        """Return how many messages wait."""
        return banner.waiting(cursor.state) if cursor.state else "?"

    @admin.display(description="oldest")
    def oldest(self, cursor: Any) -> str:
        """Return for how long the oldest of them has waited."""
        return banner.age(cursor.state.lag_seconds) if cursor.state else "?"

    @admin.display(description="held by")
    def held_by(self, cursor: Any) -> str:
        """Return the process that holds the lane."""
        return cursor.owner if cursor.state and banner.is_served(cursor.state) else "nobody"

    @admin.display(description="lease")
    def lease(self, cursor: Any) -> str:
        """Return for how much longer it does."""
        served = cursor.state and banner.is_served(cursor.state)
        return banner.age(cursor.state.lease_seconds) if served else "-"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
