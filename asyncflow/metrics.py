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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

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


class Metric:
    """A metric whose labels cannot grow without bound."""

    def __init__(self, spec: Spec, registry: CollectorRegistry) -> None:
        self.spec = spec
        self._metric = _make(spec, registry)
        self._seen: tuple[set[str], ...] = tuple(set() for _ in spec.labels)
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Add to a counter, or to a gauge that follows something up and down."""
        child = self._child(labels)
        if isinstance(child, Histogram):
            raise TypeError(f"{self.spec.name} is a histogram")
        child.inc(by)

    def dec(self, *labels: str, by: float = 1.0) -> None:
        """Take from a gauge."""
        self._gauge(labels).dec(by)

    def set(self, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._gauge(labels).set(value)

    def observe(self, value: float, *labels: str) -> None:
        """Put one value into a histogram."""
        child = self._child(labels)
        if not isinstance(child, Histogram):
            raise TypeError(f"{self.spec.name} is not a histogram")
        child.observe(value)

    def clear(self) -> None:
        """Forget all values of a gauge with labels, before it is set anew."""
        self._children.clear()
        self._metric.clear()

    def _gauge(self, labels: tuple[str, ...]) -> Gauge:
        child = self._child(labels)
        if not isinstance(child, Gauge):
            raise TypeError(f"{self.spec.name} is not a gauge")
        return child

    def _child(self, labels: tuple[str, ...]) -> Counter | Gauge | Histogram:
        child = self._children.get(labels)
        return self._add_child(labels) if child is None else child

    def _add_child(self, labels: tuple[str, ...]) -> Counter | Gauge | Histogram:
        pairs = list(zip(labels, self._seen, strict=True))
        if not pairs:
            return self._metric
        bounded = tuple(_bounded(value, seen) for value, seen in pairs)
        child = self._metric.labels(*bounded)
        self._children[bounded] = child
        return child


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics: list[Metric] = []
        self._callbacks: list[Callable[[], Awaitable[None]]] = []
        ProcessCollector(registry=self.registry)

        # ----- uploads
        self.uploads_created = self._counter(
            "uploads_created", "Uploads begun, by protocol.", "protocol"
        )
        self.uploads_completed = self._counter(
            "uploads_completed", "Uploads whose last byte is on stable storage."
        )
        self.uploads_refused = self._counter(
            "uploads_refused", "Uploads refused, by error code.", "code"
        )
        self.bytes_received = self._counter(
            "received_bytes", "Bytes of uploads that arrived, whatever became of them."
        )
        self.open_uploads = self._gauge(
            "open_uploads", "Uploads begun and neither complete nor ended."
        )

        # ----- jobs and steps
        self.jobs_finished = self._counter(
            "jobs_finished", "Runs of jobs that ended, by final state.", "state"
        )
        self.steps_finished = self._counter(
            "steps_finished",
            "Attempts at steps that ended, by consumer and outcome "
            "(done, skipped, retrying, dead, cancelled).",
            "consumer",
            "outcome",
        )
        self.step_duration = self._histogram(
            "step_duration_seconds",
            "Time of one attempt at a step, from claim to settlement.",
            "consumer",
            buckets=STEP_S,
        )
        self.queue_length = self._gauge(
            "queue_length",
            "Steps that are not over, by consumer and state.",
            "consumer",
            "state",
        )

        # ----- workers
        self.workers = self._gauge(
            "workers", "Worker processes, by state (idle, busy, starting).", "state"
        )
        self.worker_crashes = self._counter(
            "worker_crashes",
            "Worker processes that died or were killed, by reason.",
            "reason",
        )

        # ----- database
        self.db_batch_size = self._histogram(
            "db_batch_size", "Writes that shared one commit.", buckets=BATCH
        )
        self.db_commit_duration = self._histogram(
            "db_commit_seconds", "Time of one commit, sync included.", buckets=COMMIT_S
        )
        self.wal_bytes = self._gauge(
            "db_wal_bytes", "Size of the database's write-ahead log."
        )

        # ----- the process and its HTTP side
        self.loop_lag = self._histogram(
            "loop_lag_seconds",
            "How much later than asked the event loop ran a timer.",
            buckets=LAG_S,
        )
        self.http_requests = self._counter(
            "http_requests",
            "Answered requests, by route pattern, method and class of status (2xx).",
            "route",
            "method",
            "status",
        )
        self.http_duration = self._histogram(
            "http_request_seconds",
            "Time from a request's head to its answer, by route pattern and method.",
            "route",
            "method",
            buckets=REQUEST_S,
        )
        self.connections = self._gauge("connections", "Open HTTP connections.")
        self.websockets = self._gauge("websockets", "Open WebSocket connections.")

        # ----- storage
        self.storage_bytes = self._gauge(
            "storage_bytes", "Bytes of the blobs in the store."
        )
        self.storage_free_bytes = self._gauge(
            "storage_free_bytes", "Bytes free for us on the store's medium."
        )

    def specs(self) -> tuple[Spec, ...]:
        """Return what each metric is, in the order of declaration."""
        return tuple(metric.spec for metric in self._metrics)

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
        return generate_latest(self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Metric:
        return self._add("counter", f"{name}_total", help_, labels)

    def _gauge(self, name: str, help_: str, *labels: str) -> Metric:
        return self._add("gauge", name, help_, labels)

    def _histogram(
        self, name: str, help_: str, *labels: str, buckets: tuple[float, ...]
    ) -> Metric:
        return self._add("histogram", name, help_, labels, buckets)

    def _add(
        self,
        kind: Kind,
        name: str,
        help_: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...] = (),
    ) -> Metric:
        spec = Spec(
            name=f"asyncflow_{name}",
            kind=kind,
            help=help_,
            labels=labels,
            buckets=buckets,
        )
        metric = Metric(spec, self.registry)
        self._metrics.append(metric)
        return metric


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
