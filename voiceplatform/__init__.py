"""The composition root: the only package that knows every other."""

from voiceplatform.celery import app as celery_app

__all__ = ["celery_app"]
