"""Settings of the shop: everything that differs between places comes from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from django.core.management.utils import get_random_secret_key

from shop.database import database

BASE_DIR = Path(__file__).resolve().parent.parent

SHOP_URL = os.environ.get("SHOP_URL", "http://127.0.0.1:8001").rstrip("/")
BILLING_URL = os.environ.get("BILLING_URL", "http://127.0.0.1:8002").rstrip("/")
#: The same service as the visitor's browser reaches it.
BILLING_PUBLIC_URL = os.environ.get("BILLING_PUBLIC_URL", BILLING_URL).rstrip("/")
#: Where traces can be read: Jaeger, or what `examples/run` puts in its place. Empty: nowhere.
TRACES_URL = os.environ.get("TRACES_URL", "").rstrip("/")
#: The same for the visitor, if there is a page to look at.
TRACES_PUBLIC_URL = os.environ.get("TRACES_PUBLIC_URL", "").rstrip("/")
#: Where the relay's process id is written, if the page is to offer to kill it.
RELAY_PID_FILE = os.environ.get("SHOP_RELAY_PID_FILE", "")

DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
#: A key of its own for every start, unless one is given: then nobody stays logged in over it.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or get_random_secret_key()
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", urlsplit(SHOP_URL).hostname or "localhost"]
CSRF_TRUSTED_ORIGINS = [SHOP_URL]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "outbox.django",
    "orders",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "shop.protection.protect",
    "shop.tracing.trace_changes",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "orders.views.surroundings",
            ]
        },
    }
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
STATIC_URL = "/static/"

DATABASES = {"default": database(os.environ.get("DATABASE_URL", f"sqlite:///{BASE_DIR}/shop.db"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

KAFKA_BOOTSTRAP_SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
OUTBOX = {"KAFKA": {"bootstrap.servers": KAFKA_BOOTSTRAP_SERVERS}}

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-gb"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # The visitor's browser asks for the journey twice a second.
    "loggers": {"waitress.queue": {"level": "ERROR"}},
}
