"""What the operator sees: queues, workers, the last hour, why things failed.

`/admin` is a page that asks the JSON routes below it every two seconds while somebody
looks at it. Everything here needs the scope `admin`.
"""

from collections.abc import Mapping

from aiohttp import web

from asyncflow import __version__, views
from asyncflow.db.oversight import Note
from asyncflow.history import Minute
from asyncflow.jobs import StepState
from asyncflow.orders import WorkerInfo
from asyncflow.runtime import Runtime
from asyncflow.views import AttemptView, EventView, View
from asyncflow.web import jobs
from asyncflow.web.auth import ADMIN, require
from asyncflow.web.health import Check, failing
from asyncflow.web.keys import runtime_key
from asyncflow.web.operator import AlertView, by_hand, raised
from asyncflow.web.page import html


class CheckView(View, frozen=True, kw_only=True):
    """One of the conditions of `/readyz`; `reason` is None when it is met."""

    name: str
    reason: str | None


class ConsumerView(View, frozen=True, kw_only=True):
    """A consumer and how many of its steps are in which state.

    Files that it has refused count as `refused`, not as `dead`.
    """

    name: str
    missing_tool: str | None
    #: how long its oldest ready step has waited
    oldest_s: float | None
    steps: Mapping[str, int]


class WorkerView(View, frozen=True, kw_only=True):
    """A worker process and the step it runs."""

    slot: int
    pid: int
    state: str
    consumer: str | None
    job_id: str | None
    age_s: float
    rss_bytes: int
    steps_done: int


class MinuteView(View, frozen=True, kw_only=True):
    """How many uploads became whole and how many runs ended how in one minute."""

    at: str | None
    uploaded: int
    completed: int
    failed: int
    rejected: int
    cancelled: int


class Overview(View, frozen=True, kw_only=True):
    """Everything the admin page shows but for single jobs."""

    version: str
    checks: tuple[CheckView, ...]
    alerts: tuple[AlertView, ...]
    waiting: int
    oldest_s: float | None
    open_uploads: int
    stored_bytes: int
    #: of the database's write-ahead log
    wal_bytes: int
    #: the worst of the last ten seconds
    loop_lag_s: float
    #: room under the store; None: it cannot fill up
    free_bytes: int | None
    #: no step begins until an operator says so
    draining: bool
    sockets: int
    #: async functions that go on although they were told to stop
    strays: int
    consumers: tuple[ConsumerView, ...]
    workers: tuple[WorkerView, ...]
    minutes: tuple[MinuteView, ...]


class Past(View, frozen=True, kw_only=True):
    """What happened to one job, and every attempt that did not succeed."""

    job_id: str
    events: tuple[EventView, ...]
    attempts: tuple[AttemptView, ...]


def add_admin(app: web.Application, *, checks: Mapping[str, Check]) -> None:
    """Add the admin page and its routes to *app*."""

    async def overview(request: web.Request) -> web.Response:
        require(request, ADMIN)
        reasons = await failing(checks)
        shown = tuple(CheckView(name=name, reason=reasons.get(name)) for name in checks)
        return jobs.answer(await _overview(request.app[runtime_key], shown))

    app.router.add_get("/admin", show)
    app.router.add_get("/admin/overview", overview)
    app.router.add_get("/admin/jobs/{id}/attempts", past)
    app.router.add_post("/admin/retry/{id}", retry)
    app.router.add_post("/admin/jobs/{id}/cancel", cancel)
    app.router.add_delete("/admin/jobs/{id}", delete)


async def show(request: web.Request) -> web.Response:
    """Show the page."""
    require(request, ADMIN)
    return html("admin.html")


async def past(request: web.Request) -> web.Response:
    """Tell what happened to a job."""
    require(request, ADMIN)
    job = jobs.job_id(request)
    db = request.app[runtime_key].db
    attempts, events = await db.attempts(job), await db.events(job)
    found = Past(job_id=job, events=tuple(events), attempts=tuple(attempts))
    return jobs.answer(found)


async def retry(request: web.Request) -> web.Response:
    """Start a new run of what did not succeed."""
    return await jobs.retry(request, _by_hand(request, "retry-job"))


async def cancel(request: web.Request) -> web.Response:
    """Close a job; what succeeded stays."""
    return await jobs.cancel(request, _by_hand(request, "cancel-job"))


async def delete(request: web.Request) -> web.Response:
    """Forget a job with all its bytes; that it was done stays in the audit."""
    return await jobs.delete(request, _by_hand(request, "delete-job"))


def _by_hand(request: web.Request, action: str) -> Note:
    return by_hand(request, action, jobs.job_id(request))


async def _overview(runtime: Runtime, checks: tuple[CheckView, ...]) -> Overview:
    now = runtime.engine.clock.now()
    offsets = await runtime.db.log_offsets()
    oldest = {
        name: max(0, now - one.since) / 1000
        for name, one in offsets.items()
        if one.since is not None
    }
    consumers = _consumers(runtime, await runtime.gauges.tallies(), oldest)
    waits = (StepState.READY, StepState.RETRYING)
    return Overview(
        version=__version__,
        checks=checks,
        alerts=raised(runtime),
        waiting=sum(one.steps.get(state, 0) for one in consumers for state in waits),
        oldest_s=max(oldest.values(), default=None),
        open_uploads=await runtime.db.open_uploads(),
        stored_bytes=await runtime.db.stored_bytes(),
        wal_bytes=runtime.db.wal_bytes(),
        loop_lag_s=round(runtime.gauges.loop_lag_s, 4),
        free_bytes=await runtime.free_bytes(),
        draining=runtime.engine.is_drained,
        sockets=len(runtime.sockets),
        strays=len(runtime.strays()),
        consumers=consumers,
        workers=tuple(_worker(one) for one in runtime.pool.workers()),
        minutes=tuple(_minute(one) for one in runtime.gauges.history.minutes()),
    )


def _consumers(
    runtime: Runtime,
    tallies: Mapping[tuple[str, str], int],
    oldest_s: Mapping[str, float],
) -> tuple[ConsumerView, ...]:
    cards = runtime.pool.processors
    names = dict.fromkeys([*cards, *(consumer for consumer, _state in tallies)])
    return tuple(
        ConsumerView(
            name=name,
            missing_tool=runtime.missing_tool(name),
            oldest_s=oldest_s.get(name),
            steps={state: n for (one, state), n in tallies.items() if one == name},
        )
        for name in names
    )


def _worker(one: WorkerInfo) -> WorkerView:
    consumer, _, job = one.label.partition(" of ")
    busy = one.state == "running"
    return WorkerView(
        slot=one.slot,
        pid=one.pid,
        state=one.state,
        consumer=consumer if busy and consumer else None,
        job_id=job if busy and job else None,
        age_s=round(one.age_s, 1),
        rss_bytes=one.rss_bytes,
        steps_done=one.jobs_done,
    )


def _minute(one: Minute) -> MinuteView:
    count = one.counts.get
    return MinuteView(
        at=views.timestamp(one.at * 1000),
        uploaded=count("uploaded", 0),
        completed=count("completed", 0),
        failed=count("failed", 0),
        rejected=count("rejected", 0),
        cancelled=count("cancelled", 0),
    )
