"""The Celery application: `celery -A benchmarks.celery_app worker`. Its broker's address is in the environment."""

import os

from celery import Celery

from benchmarks import work

REDIS = "BENCHMARKS_REDIS"

app = Celery("benchmarks", broker=os.environ.get(REDIS), backend=os.environ.get(REDIS))
app.conf.update(
    task_acks_late=False,
    worker_prefetch_multiplier=64,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    task_send_sent_event=False,
    task_track_started=False,
    task_store_errors_even_if_ignored=False,
    result_expires=600,
    broker_connection_retry_on_startup=True,
)

TASKS = {fn: app.task(fn, name=f"benchmarks.{fn.__name__}") for fn in (work.noop, work.sleepy, work.busy)}
"""The tasks by their function; jobs and results are JSON, Celery's default."""
