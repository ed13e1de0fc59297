"""Which of its databases a SQLAlchemy Session writes to: never a guess."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session


def bind_arguments_for(
    session: Session, given: Mapping[str, object] | None
) -> dict[str, Any] | None:
    """Return what `session.connection(bind_arguments=…)` takes, or raise ConfigurationError.

    With `given` that is it. Without, the session must have one database and no routing of its own.
    """
    if given is not None:
        return dict(given)
    # Public since SQLAlchemy 2.1.
    binds = getattr(session, "binds", None) or getattr(session, "_Session__binds", None)
    if binds:
        return _the_only_bind(session, binds)
    cls: type = session.__class__
    if _routes(cls) and not _is_flask_with_one_engine(session):
        raise ConfigurationError(
            f"{cls.__name__} chooses its database in get_bind(), so this Outbox "
            f"cannot know which one holds the outbox tables; {_FIX}"
        )
    return None


_FIX = (
    "say it once: Outbox(bind_arguments={'bind': engine}), or {'mapper': Order} with a model of "
    "that database"
)


def _the_only_bind(session: Session, binds: Mapping[Any, Any]) -> dict[str, Any]:
    databases = {getattr(bind, "engine", bind) for bind in binds.values()}
    if session.bind is not None:
        databases.add(getattr(session.bind, "engine", session.bind))
    if len(databases) > 1:
        raise ConfigurationError(
            f"this session has {len(databases)} databases (binds=), and the message must go to "
            f"the one that your change goes to; {_FIX}"
        )
    return {"bind": session.bind if session.bind is not None else next(iter(binds.values()))}


@lru_cache
def _routes(cls: type) -> bool:
    from sqlalchemy.orm import Session

    return getattr(cls, "get_bind", None) is not Session.get_bind


def _is_flask_with_one_engine(session: Session) -> bool:
    """Say whether this is Flask-SQLAlchemy's session without SQLALCHEMY_BINDS.

    Its get_bind() routes by bind key, which is no choice where there is one engine.
    """
    owner = next(base for base in session.__class__.__mro__ if "get_bind" in vars(base))
    return owner.__module__ == "flask_sqlalchemy.session" and len(_flask_engines(session)) == 1


def _flask_engines(session: Any) -> Mapping[str | None, object]:
    engines: Mapping[str | None, object] = session._db.engines  # noqa: SLF001  no public way
    return engines
