"""``/healthz`` says that the process serves, ``/readyz`` that it could admit a session."""

from django.test import Client


def test_alive_is_answered_to_anybody(stranger: Client) -> None:
    response = stranger.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"alive": True})


def test_a_node_that_has_not_started_is_not_ready(stranger: Client) -> None:
    response = stranger.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"ready": False})
    assert "no-store" in response["Cache-Control"]
