"""op.create_outbox, op.upgrade_outbox, op.downgrade_outbox, op.drop_outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from alembic.operations import MigrateOperation, Operations

from outbox.alembic import changing
from outbox.alembic.place import MigrationRefused, Place, check_version, known_dialect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from outbox.database import Dialect

DiffTuple: TypeAlias = tuple[str, dict[str, object]]


@Operations.register_operation("create_outbox")
class CreateOutbox(MigrateOperation):
    """Make our tables."""

    def __init__(self, place: Place, version: int) -> None:
        self.place = place
        self.version = version

    @classmethod
    def create_outbox(
        cls,
        operations: Operations,
        version: int = 1,
        *,
        schema: str | None = None,
        table_prefix: str = "",
        only: str | None = None,
    ) -> None:
        """Make the tables of outbox-relay as they are in a version.

        Tables of ours that are there already, at this version or a later one, are left as they are;
        tables of somebody else are refused.
        """
        operations.invoke(cls(Place.of(schema, table_prefix, only), version))

    def arguments(self) -> dict[str, object]:
        """Return what a call of this operation says."""
        return {"version": self.version, **self.place.arguments()}

    def reverse(self) -> MigrateOperation:
        """Return what undoes it."""
        return DropOutbox(self.place)

    def to_diff_tuple(self) -> DiffTuple:
        """Return what `alembic check` shows."""
        return "create_outbox", self.arguments()


@Operations.register_operation("upgrade_outbox")
class UpgradeOutbox(MigrateOperation):
    """Bring our tables to a later version."""

    def __init__(self, place: Place, above: int, to: int) -> None:
        self.place = place
        self.above = above
        self.to = to

    @classmethod
    def upgrade_outbox(
        cls,
        operations: Operations,
        from_version: int,
        to_version: int,
        *,
        schema: str | None = None,
        table_prefix: str = "",
        only: str | None = None,
    ) -> None:
        """Bring the tables from one version to a later one, unless they are there already."""
        if from_version >= to_version:
            raise MigrationRefused(
                f"op.upgrade_outbox({from_version}, {to_version}) does not go up; the way down is "
                f"op.downgrade_outbox({from_version}, {to_version})"
            )
        operations.invoke(cls(Place.of(schema, table_prefix, only), from_version, to_version))

    def arguments(self) -> dict[str, object]:
        """Return what a call of this operation says."""
        versions: dict[str, object] = {"from_version": self.above, "to_version": self.to}
        return {**versions, **self.place.arguments()}

    def reverse(self) -> MigrateOperation:
        """Return what undoes it."""
        return DowngradeOutbox(self.place, self.to, self.above)

    def to_diff_tuple(self) -> DiffTuple:
        """Return what `alembic check` shows."""
        return "upgrade_outbox", self.arguments()


@Operations.register_operation("downgrade_outbox")
class DowngradeOutbox(MigrateOperation):
    """Let older code run again, on the tables as they are."""

    def __init__(self, place: Place, above: int, to: int) -> None:
        self.place = place
        self.above = above
        self.to = to

    @classmethod
    def downgrade_outbox(
        cls,
        operations: Operations,
        from_version: int,
        to_version: int,
        *,
        schema: str | None = None,
        table_prefix: str = "",
        only: str | None = None,
    ) -> None:
        """Undo op.upgrade_outbox for the code, and change nothing in the tables.

        Versions only add to the tables, so that older code can run on them; the next upgrade
        finds them as they are. Refused where the tables say that older code cannot.
        """
        operations.invoke(cls(Place.of(schema, table_prefix, only), from_version, to_version))

    def arguments(self) -> dict[str, object]:
        """Return what a call of this operation says."""
        versions: dict[str, object] = {"from_version": self.above, "to_version": self.to}
        return {**versions, **self.place.arguments()}

    def reverse(self) -> MigrateOperation:
        """Return what undoes it."""
        return UpgradeOutbox(self.place, self.to, self.above)

    def to_diff_tuple(self) -> DiffTuple:
        """Return what `alembic check` shows."""
        return "downgrade_outbox", self.arguments()


@Operations.register_operation("drop_outbox")
class DropOutbox(MigrateOperation):
    """Drop our tables."""

    def __init__(self, place: Place, *, force: bool = False) -> None:
        self.place = place
        self.force = force

    @classmethod
    def drop_outbox(
        cls,
        operations: Operations,
        *,
        schema: str | None = None,
        table_prefix: str = "",
        only: str | None = None,
        force: bool = False,
    ) -> None:
        """Drop the tables of outbox-relay.

        Refused while a relay name has messages to deliver, unless `force` says to lose them. The
        inbox forgets which messages have taken effect.
        """
        operations.invoke(cls(Place.of(schema, table_prefix, only), force=force))

    def arguments(self) -> dict[str, object]:
        """Return what a call of this operation says."""
        forced: dict[str, object] = {"force": True} if self.force else {}
        return {**self.place.arguments(), **forced}

    def to_diff_tuple(self) -> DiffTuple:
        """Return what `alembic check` shows."""
        return "drop_outbox", self.arguments()


OutboxOperation: TypeAlias = CreateOutbox | UpgradeOutbox | DowngradeOutbox | DropOutbox


@Operations.implementation_for(CreateOutbox)
def _create(operations: Operations, operation: CreateOutbox) -> None:
    dialect, place = _dialect(operations, operation), operation.place
    check_version(dialect, operation.version)
    if operations.migration_context.as_sql:
        return _print(operations, changing.create_script(dialect, place, operation.version))
    return changing.create(_connection(operations), dialect, place, operation.version)


@Operations.implementation_for(UpgradeOutbox)
def _upgrade(operations: Operations, operation: UpgradeOutbox) -> None:
    dialect, place = _dialect(operations, operation), operation.place
    above, to = operation.above, operation.to
    check_version(dialect, above)
    check_version(dialect, to)
    if operations.migration_context.as_sql:
        return _print(operations, changing.upgrade_script(dialect, place, above, to))
    return changing.upgrade(_connection(operations), dialect, place, above, to)


@Operations.implementation_for(DowngradeOutbox)
def _downgrade(operations: Operations, operation: DowngradeOutbox) -> None:
    dialect = _dialect(operations, operation)
    if not operations.migration_context.as_sql:
        changing.downgrade(_connection(operations), dialect, operation.place, operation.to)


@Operations.implementation_for(DropOutbox)
def _drop(operations: Operations, operation: DropOutbox) -> None:
    dialect, place = _dialect(operations, operation), operation.place
    if operations.migration_context.as_sql:
        return _print(operations, changing.drop_script(dialect, place, force=operation.force))
    return changing.drop(_connection(operations), dialect, place, force=operation.force)


def _dialect(operations: Operations, operation: OutboxOperation) -> Dialect:
    return known_dialect(operations.migration_context.dialect.name, operation.place)


def _connection(operations: Operations) -> Connection:
    return operations.get_bind()


def _print(operations: Operations, statements: Iterable[str]) -> None:
    # Not through op.execute(): a text() would double every %.
    for statement in statements:
        operations.migration_context.impl.static_output(statement.rstrip().removesuffix(";") + ";")
