"""Fields for columns that PostgreSQL has types for and SQLite has not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from django.conf import settings
from django.core import exceptions
from django.db import models
from django.utils import timezone

# Any: Django's own signatures of these hooks.

if TYPE_CHECKING:
    _DateTimeField: TypeAlias = models.DateTimeField[Any, Any]
    _Field: TypeAlias = models.Field[Any, Any]
else:  # only the stubs have type arguments
    _DateTimeField, _Field = models.DateTimeField, models.Field


class MomentField(_DateTimeField):
    """A moment: timestamptz, or on SQLite the seconds since 1970 as a real number."""

    def get_internal_type(self) -> str:
        """Return a name that no backend knows, so that none converts what we do."""
        return "MomentField"

    def db_type(self, connection: Any) -> str:
        """Return the column's type; the migrations make it, not Django."""
        return "real" if connection.vendor == "sqlite" else "timestamptz"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Return what a query compares the column with."""
        moment = value if prepared else self.get_prep_value(value)
        if connection.vendor == "sqlite" and isinstance(moment, datetime):
            return moment.timestamp()
        return moment

    def from_db_value(self, value: Any, _expression: object, _connection: object) -> Any:
        """Return a datetime as USE_TZ wants it."""
        if not isinstance(value, int | float):
            return value
        moment = datetime.fromtimestamp(value, UTC)
        return moment if settings.USE_TZ else timezone.make_naive(moment)


class MessageIdField(_Field):
    """A UUID: uuid, or on SQLite its text with hyphens (where Django's own field has none)."""

    def db_type(self, connection: Any) -> str:
        """Return the column's type; the migrations make it, not Django."""
        return "text" if connection.vendor == "sqlite" else "uuid"

    def to_python(self, value: Any) -> UUID | None:
        """Return a UUID, or raise ValidationError."""
        if value is None or isinstance(value, UUID):
            return value
        try:
            return UUID(str(value))
        except ValueError as error:
            raise exceptions.ValidationError(f"{value!r} is not a UUID") from error

    def get_prep_value(self, value: Any) -> Any:
        """Return the text, which both databases compare."""
        found = self.to_python(value)
        return None if found is None else str(found)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Return what a query compares the column with."""
        text = value if prepared else self.get_prep_value(value)
        return text if connection.vendor == "sqlite" or text is None else UUID(text)

    def from_db_value(self, value: Any, _expression: object, _connection: object) -> Any:
        """Return a UUID."""
        return UUID(value) if isinstance(value, str) else value
