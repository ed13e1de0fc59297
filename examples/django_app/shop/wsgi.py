"""What a WSGI server runs: `waitress-serve shop.wsgi:application`."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

# Serves the style sheets from where they lie. A shop with many visitors would let a web server or
# WhiteNoise do that.
application = StaticFilesHandler(get_wsgi_application())
