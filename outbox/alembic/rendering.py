"""How autogenerate writes our operations into a migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.autogenerate import renderers

from outbox.alembic.operations import (
    CreateOutbox,
    DowngradeOutbox,
    DropOutbox,
    OutboxOperation,
    UpgradeOutbox,
)

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

IMPORT = "import outbox.alembic  # noqa: F401 - op.create_outbox and its like"

#: What reads better by its place than by its name.
_POSITIONAL = ("from_version", "to_version")


@renderers.dispatch_for(CreateOutbox)
@renderers.dispatch_for(UpgradeOutbox)
@renderers.dispatch_for(DowngradeOutbox)
@renderers.dispatch_for(DropOutbox)
def render(context: AutogenContext, operation: OutboxOperation) -> str:
    """Return the call, and see to its import."""
    context.imports.add(IMPORT)
    prefix = context.opts.get("alembic_module_prefix") or ""
    arguments = ", ".join(
        repr(value) if name in _POSITIONAL else f"{name}={value!r}"
        for name, value in operation.arguments().items()
    )
    return f"{prefix}{operation.to_diff_tuple()[0]}({arguments})"
