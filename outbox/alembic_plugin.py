"""The plugin that Alembic finds by our entry point.

Alembic loads it while it is itself half imported, so nothing of Alembic is imported here before it
is needed, and this module cannot be in `outbox.alembic`, which needs all of it. It is loaded
wherever both packages are installed: what fails here is an Alembic that cannot be imported.

The entry point is called `alembic.autogenerate.outbox`, so that Alembic's own default,
`autogenerate_plugins=["alembic.autogenerate.*"]`, includes it: a plugin that had to be named first
would not be there when autogenerate proposes to drop the log.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult


class _PluginModule(ModuleType):
    """A module, as Alembic wants it now, and an iterable of modules, as its first releases did."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self

    @staticmethod
    def setup(plugin: Plugin) -> None:
        """Register what autogenerate calls before and after it compares the user's tables."""
        from alembic.util import DispatchPriority

        plugin.add_autogenerate_comparator(_hide, "autogenerate", priority=DispatchPriority.FIRST)
        plugin.add_autogenerate_comparator(_compare, "autogenerate", priority=DispatchPriority.LAST)


def _hide(context: AutogenContext, _: UpgradeOps) -> PriorityDispatchResult:
    from alembic.util import PriorityDispatchResult

    from outbox.alembic.comparing import hide

    hide(context)
    return PriorityDispatchResult.CONTINUE


def _compare(context: AutogenContext, upgrade: UpgradeOps) -> PriorityDispatchResult:
    from alembic.util import PriorityDispatchResult

    from outbox.alembic.comparing import compare

    compare(context, upgrade)
    return PriorityDispatchResult.CONTINUE


plugin = _PluginModule(__name__)
