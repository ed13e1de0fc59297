"""Which versions of the tables this code runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from outbox.errors import SchemaMissing, SchemaTooNew, SchemaTooOld

if TYPE_CHECKING:
    from collections.abc import Callable

Component = Literal["outbox", "inbox"]

#: The version of the tables this code was written for, of the outbox and of the inbox alike.
SCHEMA_VERSION = 1


def require_schema(
    read_meta: Callable[[], tuple[int, int] | None], component: Component = "outbox"
) -> None:
    """Raise unless the tables of `component` fit this code.

    `read_meta` returns (version, compatible_from) of the meta table, or None if there is no such
    table. The code may be behind the tables as far as `compatible_from` says, so that a rolling
    upgrade can begin with the tables; it is never ahead of them.
    """
    meta = read_meta()
    only = " --only inbox" if component == "inbox" else ""
    if meta is None:
        raise SchemaMissing(
            f"the {component} tables do not exist here; run `outbox-relay migrate{only}`, or check "
            "schema and table_prefix if you have done so"
        )
    version, compatible_from = meta
    if version < SCHEMA_VERSION:
        raise SchemaTooOld(
            f"the {component} tables have version {version}, this code needs {SCHEMA_VERSION}; "
            f"run `outbox-relay migrate{only}`"
        )
    if compatible_from > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the {component} tables have version {version} and need code for version "
            f"{compatible_from} or later, this code is for {SCHEMA_VERSION}; upgrade outbox-relay"
        )
