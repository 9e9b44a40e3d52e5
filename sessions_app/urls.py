"""Addresses of the pages, the health checks and the API. The WebSocket's is in ``transport.routing``."""

from django.urls import include, path

from sessions_app.views import ending, health, history, platform, talk

urlpatterns = [
    path("", talk.home, name="home"),
    path("talk/", talk.talk, name="talk"),
    path("talk/token/", talk.token, name="talk-token"),
    path("sessions/", history.own_sessions, name="own-sessions"),
    path("sessions/<uuid:session_id>/", history.own_session, name="own-session"),
    path("ops/sessions/", history.sessions, name="ops-sessions"),
    path("ops/sessions/<uuid:session_id>/", history.session, name="ops-session"),
    path("ops/sessions/<uuid:session_id>/end/", ending.end, name="ops-session-end"),
    path("ops/health/", platform.health, name="ops-health"),
    path("readyz", health.ready, name="readyz"),
    path("healthz", health.alive, name="healthz"),
    path("api/v1/", include("sessions_app.api.urls")),
]
