"""What a WSGI server runs: `waitress-serve billing.wsgi:app`."""

from __future__ import annotations

from billing import create_app

app = create_app()
