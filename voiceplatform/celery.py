"""The Celery application: ``celery -A voiceplatform worker`` and ``… beat``. Tasks live in ``sessions_app.tasks``.

Telemetry starts in the processes that do the work, after they were forked, and in beat; the worker's main process exports nothing.
"""

import os
from typing import Any

from celery import Celery, signals

from voiceplatform import telemetry

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceplatform.settings")
app = Celery("voiceplatform")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.worker_init.connect
def _worker_starts(**_: Any) -> None:
    """Let the worker outlive its broker.

    One that loses it gives back what it had taken and not begun: to the broker that is gone, on a channel without a connection, and dies
    of it (celery/kombu#582). Nothing is lost by leaving that out: every task here comes again with its next period. Imported here, since
    Redis' client loads the telemetry SDK, and every process imports this module.
    """
    from kombu.transport.redis import Channel

    Channel.do_restore = False


@signals.worker_process_init.connect
def _worker_process_started(**_: Any) -> None:
    telemetry.start("worker")


@signals.beat_init.connect
def _beat_started(**_: Any) -> None:
    telemetry.start("beat")


# What a worker's process forks from leaves by another way than Python's own, so that it tells of its end by a signal only.
signals.worker_process_shutdown.connect(telemetry.stop)
