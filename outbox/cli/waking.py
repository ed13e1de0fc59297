"""How a relay that the command runs is woken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from outbox.config.settings import Settings
    from outbox.relay.waking import Polling
    from outbox.store.postgresql.listener import Listener


def make_waker(settings: Settings, *, drain: bool) -> Polling | Listener:
    """Return what wakes the relay, to be entered while it runs.

    Raises ConfigurationError where the database has no notifications.
    """
    from outbox.relay.waking import Polling

    if settings.wake_up == "poll":
        return Polling()
    url = settings.require_database()
    if url.dialect != "postgresql":
        source = settings.found["wake_up"].source
        raise ConfigurationError(
            f"wake_up ({source}): only PostgreSQL has notifications; use 'poll'"
        )
    if drain:  # it looks for what was written before, of which nobody tells again
        return Polling()
    from outbox.store.postgresql.listener import Listener

    return Listener(
        url,
        settings.names,
        poll_interval_s=settings.poll_interval,
        password_callback=settings.password_callback(),
    )
