"""Every metric, declared once: its name, what it says, its labels.

Rules
-----
- A `Metrics` is made once and passed to whoever counts; there are no globals.
- Counters and histograms are added to where things happen; gauges that describe a state
  are set by a callback just before they are read (`on_scrape`).
- Labels are bounded: a label takes at most `MAX_VALUES` values, what comes after is
  counted as `other`. Ids, file names and paths never become labels.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric as Family,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector

#: the media type of what `render` returns
EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"

MAX_VALUES: Final = 200
OTHER: Final = "other"
#: a callback that cannot tell in time must not make the rest unreadable
SCRAPE_TIMEOUT_S: Final = 2.0

Kind = Literal["counter", "gauge", "histogram"]

REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 300, 3600)
STEP_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is to be known about one metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


#: attribute of `Metrics` -> what it is
SPECS: Mapping[str, Spec] = {
    # ----- uploads
    "uploads_created": Spec(
        name="asyncflow_uploads_created_total",
        kind="counter",
        help="Uploads begun, by protocol.",
        labels=("protocol",),
    ),
    "uploads_completed": Spec(
        name="asyncflow_uploads_completed_total",
        kind="counter",
        help="Uploads whose last byte is on stable storage.",
    ),
    "uploads_refused": Spec(
        name="asyncflow_uploads_refused_total",
        kind="counter",
        help="Uploads refused, by error code.",
        labels=("code",),
    ),
    "bytes_received": Spec(
        name="asyncflow_received_bytes_total",
        kind="counter",
        help="Bytes of uploads that arrived, whatever became of them.",
    ),
    "open_uploads": Spec(
        name="asyncflow_open_uploads",
        kind="gauge",
        help="Uploads begun and neither complete nor ended.",
    ),
    # ----- jobs and steps
    "jobs_finished": Spec(
        name="asyncflow_jobs_finished_total",
        kind="counter",
        help="Runs of jobs that ended, by final state.",
        labels=("state",),
    ),
    "steps_finished": Spec(
        name="asyncflow_steps_finished_total",
        kind="counter",
        help="Attempts at steps that ended, by consumer and how "
        "(done, skipped, bad_file, bad_output, try_later, error, lost, released).",
        labels=(
            "consumer",
            "outcome",
        ),
    ),
    "step_duration": Spec(
        name="asyncflow_step_duration_seconds",
        kind="histogram",
        help="Time of one attempt at a step, from its begin in a worker to its report.",
        labels=("consumer",),
        buckets=STEP_S,
    ),
    "queue_length": Spec(
        name="asyncflow_queue_length",
        kind="gauge",
        help="Steps that are not done, by consumer and state, refused files apart.",
        labels=(
            "consumer",
            "state",
        ),
    ),
    "step_retries": Spec(
        name="asyncflow_step_retries_total",
        kind="counter",
        help="Failed attempts that are followed by another one, by consumer.",
        labels=("consumer",),
    ),
    "dead_letters": Spec(
        name="asyncflow_dead_letters_total",
        kind="counter",
        help="Steps that failed for good, replays too, and not because of their file,"
        " by consumer.",
        labels=("consumer",),
    ),
    "jobs_created": Spec(
        name="asyncflow_jobs_created_total",
        kind="counter",
        help="Jobs that began to wait for work, by kind (file, task, event).",
        labels=("kind",),
    ),
    "oldest_wait": Spec(
        name="asyncflow_oldest_wait_seconds",
        kind="gauge",
        help="How long the oldest ready step has waited, by consumer.",
        labels=("consumer",),
    ),
    "log_lag": Spec(
        name="asyncflow_log_lag_events",
        kind="gauge",
        help="Events behind a consumer's first step that is not over.",
        labels=("consumer",),
    ),
    "paused": Spec(
        name="asyncflow_paused",
        kind="gauge",
        help="1 while an operator has paused the consumer.",
        labels=("consumer",),
    ),
    "backlog_limit": Spec(
        name="asyncflow_backlog_limit",
        kind="gauge",
        help="Waiting steps above which new work is refused.",
    ),
    # ----- workers
    "worker_busy": Spec(
        name="asyncflow_worker_busy_seconds_total",
        kind="counter",
        help="Time that workers have spent on steps, all together.",
    ),
    "workers": Spec(
        name="asyncflow_workers",
        kind="gauge",
        help="Worker processes, by state (idle, busy, starting).",
        labels=("state",),
    ),
    "worker_memory": Spec(
        name="asyncflow_workers_resident_bytes",
        kind="gauge",
        help="Memory of all worker processes together.",
    ),
    "worker_crashes": Spec(
        name="asyncflow_worker_crashes_total",
        kind="counter",
        help="Worker processes that died or were killed, by reason.",
        labels=("reason",),
    ),
    # ----- database
    "db_batch_size": Spec(
        name="asyncflow_db_batch_size",
        kind="histogram",
        help="Writes that shared one commit.",
        buckets=BATCH,
    ),
    "db_commit_duration": Spec(
        name="asyncflow_db_commit_seconds",
        kind="histogram",
        help="Time of one commit, sync included.",
        buckets=COMMIT_S,
    ),
    "db_failures": Spec(
        name="asyncflow_db_failed_commits_total",
        kind="counter",
        help="Commits that failed: what they would have stored was refused.",
    ),
    "wal_bytes": Spec(
        name="asyncflow_db_wal_bytes",
        kind="gauge",
        help="Size of the database's write-ahead log.",
    ),
    # ----- the process and its HTTP side
    "build": Spec(
        name="asyncflow_build_info",
        kind="gauge",
        help="1, with the version that runs.",
        labels=("version",),
    ),
    "is_ready": Spec(
        name="asyncflow_ready",
        kind="gauge",
        help="1 while `/readyz` answers 200, else 0.",
    ),
    "checks": Spec(
        name="asyncflow_check",
        kind="gauge",
        help="1 while this condition of being ready is met, else 0.",
        labels=("check",),
    ),
    "alerts": Spec(
        name="asyncflow_alert",
        kind="gauge",
        help="1 while the server itself raises this alert, else 0.",
        labels=("alert",),
    ),
    "loop_lag": Spec(
        name="asyncflow_loop_lag_seconds",
        kind="histogram",
        help="How much later than asked the event loop ran a timer.",
        buckets=LAG_S,
    ),
    "loop_tasks": Spec(
        name="asyncflow_loop_tasks",
        kind="gauge",
        help="Tasks of the event loop that are not over.",
    ),
    "strays": Spec(
        name="asyncflow_strays",
        kind="gauge",
        help="Async functions that go on although they were told to stop.",
    ),
    "http_requests": Spec(
        name="asyncflow_http_requests_total",
        kind="counter",
        help="Answered requests, by route pattern, method and class of status (2xx).",
        labels=(
            "route",
            "method",
            "status",
        ),
    ),
    "http_duration": Spec(
        name="asyncflow_http_request_seconds",
        kind="histogram",
        help="Time from a request's head to its answer, by route pattern and method.",
        labels=(
            "route",
            "method",
        ),
        buckets=REQUEST_S,
    ),
    "connections": Spec(
        name="asyncflow_connections", kind="gauge", help="Open HTTP connections."
    ),
    "websockets": Spec(
        name="asyncflow_websockets",
        kind="gauge",
        help="Open WebSockets and event streams.",
    ),
    # ----- storage
    "storage_bytes": Spec(
        name="asyncflow_storage_bytes",
        kind="gauge",
        help="Bytes of complete originals and of derivatives in the store.",
    ),
    "storage_free_bytes": Spec(
        name="asyncflow_storage_free_bytes",
        kind="gauge",
        help="Bytes free for us on the store's medium.",
    ),
    "storage_total_bytes": Spec(
        name="asyncflow_storage_total_bytes",
        kind="gauge",
        help="Size of the store's medium.",
    ),
}


class Metric:
    """A metric whose labels cannot grow without bound."""

    def __init__(self, spec: Spec, registry: CollectorRegistry) -> None:
        self.spec = spec
        self._metric = _make(spec, registry)
        self._seen: tuple[set[str], ...] = tuple(set() for _ in spec.labels)
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Add to a counter, or to a gauge that follows something up and down."""
        # by the declaration: to ask what a child is an instance of is slow
        if self.spec.kind == "histogram":
            raise TypeError(f"{self.spec.name} is a histogram")
        self._child(labels).inc(by)

    def dec(self, *labels: str, by: float = 1.0) -> None:
        """Take from a gauge."""
        self._gauge(labels).dec(by)

    def set(self, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._gauge(labels).set(value)

    def observe(self, value: float, *labels: str) -> None:
        """Put one value into a histogram."""
        if self.spec.kind != "histogram":
            raise TypeError(f"{self.spec.name} is not a histogram")
        self._child(labels).observe(value)

    def clear(self) -> None:
        """Forget all values of a gauge with labels, before it is set anew."""
        self._children.clear()
        self._metric.clear()

    def _gauge(self, labels: tuple[str, ...]) -> Gauge:
        if self.spec.kind != "gauge":
            raise TypeError(f"{self.spec.name} is not a gauge")
        child: Gauge = self._child(labels)
        return child

    def _child(self, labels: tuple[str, ...]) -> Any:
        child = self._children.get(labels)
        return self._add_child(labels) if child is None else child

    def _add_child(self, labels: tuple[str, ...]) -> Counter | Gauge | Histogram:
        pairs = zip(labels, self._seen, strict=True)
        bounded = tuple(_bounded(value, seen) for value, seen in pairs)
        child = self._metric.labels(*bounded) if bounded else self._metric
        self._children[bounded] = child
        return child


class Metrics:
    """All metrics of one server; `SPECS` says what each is."""

    uploads_created: Metric
    uploads_completed: Metric
    uploads_refused: Metric
    bytes_received: Metric
    open_uploads: Metric
    jobs_finished: Metric
    steps_finished: Metric
    step_duration: Metric
    queue_length: Metric
    step_retries: Metric
    dead_letters: Metric
    jobs_created: Metric
    oldest_wait: Metric
    log_lag: Metric
    paused: Metric
    backlog_limit: Metric
    worker_busy: Metric
    workers: Metric
    worker_memory: Metric
    worker_crashes: Metric
    db_batch_size: Metric
    db_commit_duration: Metric
    db_failures: Metric
    wal_bytes: Metric
    build: Metric
    is_ready: Metric
    checks: Metric
    alerts: Metric
    loop_lag: Metric
    loop_tasks: Metric
    strays: Metric
    http_requests: Metric
    http_duration: Metric
    connections: Metric
    websockets: Metric
    storage_bytes: Metric
    storage_free_bytes: Metric
    storage_total_bytes: Metric

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._callbacks: list[Callable[[], Awaitable[None]]] = []
        ProcessCollector(registry=self.registry)
        for attribute, spec in SPECS.items():
            setattr(self, attribute, Metric(spec, self.registry))

    def specs(self) -> tuple[Spec, ...]:
        """Return what each metric is, in the order of declaration."""
        return tuple(SPECS.values())

    def on_scrape(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have *callback* set its gauges each time before the metrics are read."""
        self._callbacks.append(callback)

    async def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        for callback in self._callbacks:
            try:
                async with asyncio.timeout(SCRAPE_TIMEOUT_S):
                    await callback()
            except Exception as error:
                # the others are still worth reading
                log.warning("metrics.callback_failed", exc_info=error)
        return generate_latest(_Shown(self.registry))


class _Shown(Collector):
    """What is read: without when each counter began, which doubles their number."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Family]:
        for family in self._registry.collect():
            kept = [one for one in family.samples if not one.name.endswith("_created")]
            family.samples = kept
            yield family


def _make(spec: Spec, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match spec.kind:
        case "counter":
            return Counter(spec.name, spec.help, spec.labels, registry=registry)
        case "gauge":
            return Gauge(spec.name, spec.help, spec.labels, registry=registry)
        case "histogram":
            return Histogram(
                spec.name,
                spec.help,
                spec.labels,
                registry=registry,
                buckets=spec.buckets,
            )


def _bounded(value: str, seen: set[str]) -> str:
    if value in seen:
        return value
    if len(seen) >= MAX_VALUES:
        return OTHER
    seen.add(value)
    return value
