"""The shop's pages."""

from __future__ import annotations

from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from orders import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("orders/<uuid:order_id>/", views.order, name="order"),
    path("orders/<uuid:order_id>/journey/", views.journey, name="journey"),
    path("orders/<uuid:order_id>/cancel/", views.cancel, name="cancel"),
    path("api/orders/<uuid:order_id>", views.order_as_json, name="order-as-json"),
    path("failed/", views.failed, name="failed"),
    path("rush/", views.start_rush, name="start-rush"),
    path("rush/<uuid:rush_id>/", views.rush, name="rush"),
    path("rush/<uuid:rush_id>/verdict/", views.rush_table, name="rush-table"),
    path("api/rush/<uuid:rush_id>", views.rush_as_json, name="rush-as-json"),
    path("favicon.ico", RedirectView.as_view(url=static("orders/favicon.svg"))),
    path("healthz", views.healthz, name="healthz"),
]
