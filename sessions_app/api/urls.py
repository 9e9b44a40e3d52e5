"""Addresses of the HTTP API, under ``/api/v1/``."""

from django.urls import path

from sessions_app.api import views

app_name = "api"
urlpatterns = [path("connect-tokens", views.connect_tokens, name="connect-tokens")]
