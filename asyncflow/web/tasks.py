"""Tasks and application events over HTTP: jobs without a file.

Rules
-----
- A body is JSON whatever its Content-Type says: `curl -d` names another one.
- A 202 means that the task or event is on stable storage and will run at least once.
- Who belongs to a tenant can name no other.
"""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Final

import msgspec
from aiohttp import web

from asyncflow import views
from asyncflow.db.records import Once, Owner
from asyncflow.errors import InvalidParameter, JobNotFound
from asyncflow.jobs import JobKind, JobState, lane_of
from asyncflow.runtime import Runtime
from asyncflow.views import ErrorView, View
from asyncflow.web.auth import READ, UPLOAD, Principal, require
from asyncflow.web.intake import IDEMPOTENCY_KEY, JOB_ID, client_of, once_of
from asyncflow.web.jobs import answer, job_id
from asyncflow.web.keys import orders_key, runtime_key
from asyncflow.web.parsing import json_body, refuse_encoding
from asyncflow.web.wholes import read_whole

#: what a payload may have, its envelope included
MAX_BODY: Final = 256 << 10
MOST_URGENT: Final = -100
LEAST_URGENT: Final = 100
#: a task may wait so long
MAX_DELAY_S: Final = 366 * 86_400

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
#: how a tenant may be called: what can be read and said in an address; `-` is none
TENANT: Final = r"^(?!-$)[^\x00-\x1f\x7f]{0,200}$(?!\n)"
Tenant = Annotated[str, msgspec.Meta(pattern=TENANT, max_length=200)]
Priority = Annotated[int, msgspec.Meta(ge=MOST_URGENT, le=LEAST_URGENT)]


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class TaskOrder(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
):
    """What is to be done. A smaller `priority` is sooner; `runAt` is ISO 8601."""

    name: Name
    payload: msgspec.Raw = msgspec.field(default_factory=_null)
    priority: Priority = 0
    run_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    delay: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY_S)] = 0.0
    tenant: Tenant | None = None
    idempotency_key: Key | None = None


class Announcement(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
):
    """A fact that an application publishes. A smaller `priority` is sooner."""

    type: Name
    data: msgspec.Raw = msgspec.field(default_factory=_null)
    priority: Priority = 0
    tenant: Tenant | None = None
    idempotency_key: Key | None = None


class TaskAnswer(View, frozen=True, kw_only=True):
    """The task is on stable storage."""

    task_id: str
    status: JobState
    status_url: str


class EventAnswer(View, frozen=True, kw_only=True):
    """The event is on stable storage; its job ends when all that it caused is over."""

    job_id: str
    status: JobState
    status_url: str


class TaskView(View, frozen=True, kw_only=True):
    """A task. `result` is what its function has returned."""

    task_id: str
    name: str
    status: JobState
    progress: float
    result: object
    attempts: int
    error: ErrorView | None
    created_at: str
    not_before: str | None
    next_retry: str | None
    started_at: str | None
    finished_at: str | None
    estimated_time_remaining: float | None
    run: int
    status_url: str


_order = msgspec.json.Decoder(TaskOrder)
_announcement = msgspec.json.Decoder(Announcement)


def add_routes(app: web.Application) -> None:
    """Add the resources of tasks and events to *app*."""
    app.router.add_post("/tasks", submit)
    app.router.add_get("/tasks/{id}", show)
    app.router.add_post("/events", publish)


async def submit(request: web.Request) -> web.Response:
    """Take a task."""
    principal = require(request, UPLOAD)
    runtime = request.app[runtime_key]
    body = await _body(request, runtime)
    order = json_body(_order, body)
    once = _once(request, order.idempotency_key, body)
    whose = Owner(owner=principal.owner, tenant=_tenant(principal, order.tenant))
    run_at = _time(runtime, order)
    client = client_of(request, principal)
    found = await _begin(
        runtime,
        whose,
        client,
        once,
        lambda: runtime.engine.submit_task(
            order.name,
            bytes(order.payload).decode(),
            owner=whose.owner,
            tenant=whose.tenant,
            client=client,
            priority=order.priority,
            run_at=run_at,
            once=once,
        ),
        is_delayed=run_at is not None,
    )
    url = f"{runtime.public_path}/tasks/{found}"
    taken = TaskAnswer(task_id=found, status=JobState.PENDING, status_url=url)
    return _begun(taken, found)


async def publish(request: web.Request) -> web.Response:
    """Take an application event."""
    principal = require(request, UPLOAD)
    runtime = request.app[runtime_key]
    body = await _body(request, runtime)
    said = json_body(_announcement, body)
    once = _once(request, said.idempotency_key, body)
    whose = Owner(owner=principal.owner, tenant=_tenant(principal, said.tenant))
    client = client_of(request, principal)
    found = await _begin(
        runtime,
        whose,
        client,
        once,
        lambda: runtime.engine.submit_event(
            said.type,
            bytes(said.data).decode(),
            owner=whose.owner,
            tenant=whose.tenant,
            client=client,
            priority=said.priority,
            once=once,
        ),
    )
    url = f"{runtime.public_path}/status/{found}"
    taken = EventAnswer(job_id=found, status=JobState.PENDING, status_url=url)
    return _begun(taken, found)


async def _begin(
    runtime: Runtime,
    whose: Owner,
    client: str,
    once: Once | None,
    submit: Callable[[], Awaitable[str]],
    *,
    is_delayed: bool = False,
) -> str:
    """Return the job that *submit* begins, or that a request with the same key has.

    A repeat is answered whatever waits by then.
    """
    if once is not None:
        known = await runtime.db.created_before(whose.owner, whose.tenant, once)
        if known is not None:
            return known
    # nothing comes between this and being counted
    lane = lane_of(whose.tenant, whose.owner, client)
    runtime.admission.check_backlog(None if is_delayed else lane)
    if is_delayed:
        runtime.admission.check_delayed(lane, runtime.engine.clock.now())
    return await submit()


def _begun(taken: View, job: str) -> web.Response:
    response = answer(taken, status=202)
    response.headers[JOB_ID] = job
    return response


async def show(request: web.Request) -> web.Response:
    """Tell everything about a task."""
    require(request, READ)
    runtime = request.app[runtime_key]
    view = await runtime.status(job_id(request))
    if view.kind is not JobKind.TASK:
        what = "an event" if view.kind is JobKind.EVENT else "a file"
        where = f"{runtime.url_prefix}/status/{view.job_id}"
        raise JobNotFound(f"this is the job of {what}, not of a task: see {where}")
    # what follows the task's own step has other names
    (own,) = [step for step in view.steps if step.name == view.file_name]
    facts = view.facts.get(view.file_name, {})
    shown = TaskView(
        task_id=view.job_id,
        name=view.file_name,
        status=view.status,
        progress=view.progress,
        result=facts.get("result"),
        attempts=own.attempts,
        error=view.error or own.error,
        created_at=view.created_at,
        not_before=own.not_before,
        next_retry=view.next_retry,
        started_at=view.started_at,
        finished_at=view.completed_at or view.failed_at,
        estimated_time_remaining=view.estimated_time_remaining,
        run=view.run,
        status_url=f"{runtime.public_path}/tasks/{view.job_id}",
    )
    return answer(shown)


async def _body(request: web.Request, runtime: Runtime) -> bytes:
    """Return the request's body, if one may be taken now."""
    refuse_encoding(request)
    if IDEMPOTENCY_KEY not in request.headers:
        runtime.admission.check_backlog()
    rate = runtime.settings.body_min_rate
    wholes = request.app[orders_key]
    return await read_whole(request, wholes, max_bytes=MAX_BODY, min_rate=rate)


def _tenant(principal: Principal, asked: str | None) -> str:
    if asked is None or asked == principal.tenant:
        return principal.tenant
    if principal.tenant:
        accepted = "your own tenant, or none"
        raise InvalidParameter("tenant", asked, accepted=accepted)
    return asked


def _time(runtime: Runtime, order: TaskOrder) -> int | None:
    """Return before when the task may not run; None: at once."""
    now = runtime.engine.clock.now()
    at = now + round(order.delay * 1000)
    if order.run_at is not None:
        at = max(at, round(order.run_at.timestamp() * 1000))
    if at > now + MAX_DELAY_S * 1000:
        shown = views.timestamp(now + MAX_DELAY_S * 1000)
        raise InvalidParameter("runAt", str(order.run_at), accepted=f"until {shown}")
    return at if at > now else None


def _once(request: web.Request, key: str | None, body: bytes) -> Once | None:
    """Return the key that makes a repeated request known, of the body or a header.

    Raises:
        InvalidParameter: they say different keys.
    """
    digest = hashlib.sha256(body).hexdigest()
    told = once_of(request, digest)
    if key is None:
        return told
    if told is not None and told.key != key:
        accepted = f"the same as the header {IDEMPOTENCY_KEY}, or one of the two"
        raise InvalidParameter("idempotencyKey", key, accepted=accepted)
    return Once(key=key, fingerprint=f"{request.path} {digest}")
