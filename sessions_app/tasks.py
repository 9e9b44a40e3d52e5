"""The Celery doors: each one call to a use case, safe to run twice and beside a second beat."""

import asyncio
import os

from celery import shared_task
from django.conf import settings

from sessions_app.runtime import prober
from sessions_app.services import sweep as sweeping


@shared_task
def probe() -> int:
    """Probe the enabled backends that are due; a little early is due, so that no period is skipped."""
    return asyncio.run(prober.probe_due_once(age_s=settings.VOICE_PROBE_S * 0.8))


@shared_task
def sweep() -> int:
    """End what lost its lease."""
    return sweeping.sweep(holder=f"celery:{os.getpid()}").ended
