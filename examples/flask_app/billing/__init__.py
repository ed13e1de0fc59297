"""The billing service: one invoice for each order that it hears of."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask

from billing import api, commands, pages
from billing.extensions import db, events
from billing.settings import settings
from billing.tracing import set_up_tracing


def create_app(config: Mapping[str, object] | None = None) -> Flask:
    """Make the app; `config` goes before what the environment says."""
    set_up_tracing()
    app = Flask(__name__)
    app.config.from_mapping(settings())
    app.config.from_mapping(config or {})
    db.init_app(app)
    events.init_app(app)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(api.blueprint)
    commands.register(app)
    return app
