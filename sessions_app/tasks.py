"""The Celery doors: each one call to a use case, safe to run twice and beside a second beat.

Worker and beat give signs of life for the health page: the worker with the heartbeat of its loop and with what it is sent, beat with each
task that it could send. So either is seen while the other is dead.
"""

import asyncio
import os
from typing import Any

from celery import shared_task, signals
from django.conf import settings

from sessions_app.runtime import prober, room_tasks, telemetry
from sessions_app.runtime.pulse import Pulse
from sessions_app.selectors import platform_health
from sessions_app.services import prune as pruning
from sessions_app.services import sweep as sweeping


@shared_task
def probe() -> int:
    """Probe the enabled backends that are due; a little early is due, so that no period is skipped."""
    return asyncio.run(prober.probe_due_once(age_s=settings.VOICE_PROBE_S * 0.8))


@shared_task
def sweep() -> int:
    """End what lost its lease."""
    swept = sweeping.sweep(holder=f"celery:{os.getpid()}")
    telemetry.leaked(swept.leaked_s)
    return swept.ended


@shared_task
def reconcile() -> int:
    """Compare every backend that makes rooms with its sessions; a little early is due, so that no period is skipped."""
    return asyncio.run(room_tasks.reconcile_due_once(holder=f"celery:{os.getpid()}", age_s=settings.VOICE_RECONCILE_S * 0.8))


@shared_task
def rooms() -> int:
    """Look after the rooms and webhooks that no node has looked after."""
    return asyncio.run(room_tasks.look_once(holder=f"celery:{os.getpid()}"))


@shared_task
def prune() -> int:
    """Delete history past its retention; what a bounded run leaves, one more run takes at once."""
    pruned = pruning.prune(holder=f"celery:{os.getpid()}")
    if pruned.more:
        prune.apply_async(expires=settings.VOICE_PRUNE_TASK_S)
    return pruned.sessions


# --- signs of life: the signals come in the worker's main process and in beat's, never in a pool's child ------------------

_worker, _beat = Pulse(platform_health.WORKER), Pulse(platform_health.BEAT)
signals.heartbeat_sent.connect(_worker.felt, weak=False)
signals.task_received.connect(_worker.felt, weak=False)


@signals.beat_init.connect
@signals.beat_embedded_init.connect
def _watch_beat(**_: Any) -> None:
    """Only beat's own sending counts: other processes send tasks, too."""
    signals.after_task_publish.connect(_beat.felt, weak=False)
