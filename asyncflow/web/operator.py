"""What an operator sees of consumers and does to them, over HTTP.

Rules
-----
- Everything here needs the scope `admin`, and whatever changes something is written
  into the audit: who did what to whom.
- Pauses and the audit are kept over restarts.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final

import msgspec
from aiohttp import web

from asyncflow.db.oversight import LogOffset, Note
from asyncflow.errors import InvalidParameter, StepNotFound
from asyncflow.gauges import REFUSED
from asyncflow.jobs import StepState, Subscription
from asyncflow.pace import Restraint
from asyncflow.runtime import Runtime
from asyncflow.views import (
    AuditView,
    DeadView,
    RunningView,
    UploadingView,
    View,
    timestamp,
)
from asyncflow.web.auth import ADMIN, NO_TENANT, Principal, require
from asyncflow.web.jobs import answer
from asyncflow.web.keys import orders_key, runtime_key
from asyncflow.web.parsing import json_body, number_parameter
from asyncflow.web.tasks import TENANT
from asyncflow.web.wholes import read_whole

MAX_PAGE: Final = 500
MAX_BODY: Final = 4096
#: of fifteen digits: what is counted here never comes near
MAX_NUMBER: Final = 10**15 - 1
#: of a consumer's dead steps
WHICH: Final = (StepState.DEAD, REFUSED)
#: what is listed of what runs and of what arrives
MOST_LISTED: Final = 500


class ConsumerDetail(View, frozen=True, kw_only=True):
    """A consumer: what it listens to, how far it has come, and how fast it is.

    Of `steps`, `dead` are dead letters and `refused` those whose file was at fault.
    `lag` counts the events of the log behind its first step that is not over. `nodes`
    have its code; if this server is not one of them, it `runs` elsewhere. Seconds
    and `retries` are of this server's latest attempts, None or 0 without any.
    """

    name: str
    on: str
    accepts: tuple[str, ...]
    runs: str
    nodes: tuple[str, ...]
    registered_at: str | None
    gate: bool
    required: bool
    paused: bool
    missing_tool: str | None
    steps: Mapping[str, int]
    oldest_s: float | None
    log_offset: int
    lag: int
    per_minute: float
    p50_s: float | None
    p95_s: float | None
    attempts: int
    failures: int
    concurrency: int | None
    per_second: float | None


class Consumers(View, frozen=True, kw_only=True):
    """Every consumer of the registry."""

    consumers: tuple[ConsumerDetail, ...]


class TenantView(View, frozen=True, kw_only=True):
    """A tenant: its steps by state, its bytes, and whether it is paused.

    The one called `-` is all that belongs to no tenant.
    """

    name: str
    paused: bool
    #: it has steps or bytes; one that has none may be paused before it comes
    known: bool
    steps: Mapping[str, int]
    stored_bytes: int


class Tenants(View, frozen=True, kw_only=True):
    """Every tenant that has steps, or is paused."""

    tenants: tuple[TenantView, ...]


class DeadLetters(View, frozen=True, kw_only=True):
    """A page of dead letters or of refusals, newest first; `?before=` takes `next`."""

    steps: tuple[DeadView, ...]
    next: int | None


class StrayView(View, frozen=True, kw_only=True):
    """An async function that goes on although its attempt is over."""

    job_id: str
    step: str
    attempt: int
    told_to_stop_at: str | None


class RunningSteps(View, frozen=True, kw_only=True):
    """The steps that run now, oldest first, with their progress by job and step."""

    steps: tuple[RunningView, ...]
    strays: tuple[StrayView, ...]


class Arriving(View, frozen=True, kw_only=True):
    """Unfinished uploads, oldest first."""

    uploads: tuple[UploadingView, ...]


class Audit(View, frozen=True, kw_only=True):
    """What was done by hand, newest first; `?before=` takes `next`."""

    entries: tuple[AuditView, ...]
    next: int | None


class AlertView(View, frozen=True, kw_only=True):
    """Something that an operator should look at, and since when."""

    alert: str
    says: str
    since: str | None


class PastAlert(View, frozen=True, kw_only=True):
    """An alert that is over. No `until`: the server ended first."""

    alert: str
    says: str
    since: str | None
    until: str | None


class AlertList(View, frozen=True, kw_only=True):
    """What is raised now, and the latest that are over, before a restart too."""

    alerts: tuple[AlertView, ...]
    past: tuple[PastAlert, ...]


class Done(View, frozen=True, kw_only=True):
    """How many steps were changed; `next`: where a replay goes on, None at its end."""

    steps: int
    next: int | None = None


class Draining(View, frozen=True, kw_only=True):
    """Whether no step begins any more, and how many still run."""

    draining: bool
    running: int


class ReplayOrder(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
):
    """From when on events are replayed (ISO 8601), and behind which one."""

    since: Annotated[datetime, msgspec.Meta(tz=True)]
    after: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)] = 0


_replay = msgspec.json.Decoder(ReplayOrder)
_TENANT: Final = re.compile(TENANT)


def add_routes(app: web.Application) -> None:
    """Add the operator's resources to *app*."""
    app.router.add_get("/admin/consumers", consumers)
    app.router.add_get("/admin/consumers/{name}/dead", dead)
    app.router.add_post("/admin/consumers/{name}/forget", forget)
    app.router.add_post("/admin/consumers/{name}/pause", pause)
    app.router.add_post("/admin/consumers/{name}/resume", resume)
    app.router.add_post("/admin/consumers/{name}/retry", retry_dead)
    app.router.add_post("/admin/consumers/{name}/replay", replay)
    app.router.add_get("/admin/tenants", tenants)
    app.router.add_post("/admin/tenants/{name}/pause", pause_tenant)
    app.router.add_post("/admin/tenants/{name}/resume", resume_tenant)
    app.router.add_get("/admin/steps", running)
    app.router.add_post("/admin/steps/{step}/retry", retry_step)
    app.router.add_post("/admin/steps/{step}/cancel", cancel_step)
    app.router.add_get("/admin/uploads", arriving)
    app.router.add_get("/admin/audit", audit)
    app.router.add_get("/admin/alerts", alerts)
    app.router.add_post("/admin/drain", drain)
    app.router.add_post("/admin/resume", resume_all)


def _asked(request: web.Request) -> tuple[Runtime, Principal]:
    principal = require(request, ADMIN)
    return request.app[runtime_key], principal


def _looked(request: web.Request, *parameters: str) -> Runtime:
    """Return what is looked at. Raise InvalidParameter for one that is not known."""
    runtime, _ = _asked(request)
    _check_parameters(request, *parameters)
    return runtime


def _check_parameters(request: web.Request, *parameters: str) -> None:
    for name, value in request.query.items():
        if name not in parameters:
            accepted = f"only {' and '.join(parameters)}" if parameters else "none here"
            raise InvalidParameter(name[:80], value, accepted=accepted)


def _wants_refused(request: web.Request) -> bool:
    """Tell whether refusals are meant, not dead letters. Raise InvalidParameter."""
    wanted = ", ".join(request.query.getall("which", [StepState.DEAD]))
    if wanted not in WHICH:
        raise InvalidParameter("which", wanted, accepted=" or ".join(WHICH))
    return wanted == REFUSED


# ----- to look at


async def consumers(request: web.Request) -> web.Response:
    """Tell everything about every consumer."""
    runtime = _looked(request)
    steps: dict[str, dict[str, int]] = defaultdict(dict)
    for (name, state), n in (await runtime.gauges.tallies()).items():
        steps[name][state] = n
    offsets = await runtime.db.log_offsets()
    return answer(
        Consumers(
            consumers=tuple(
                _detail(runtime, one, steps[one.entry.consumer], offset)
                for one in runtime.engine.subscriptions
                if (offset := offsets.get(one.entry.consumer)) is not None
            )
        )
    )


def _detail(
    runtime: Runtime,
    one: Subscription,
    steps: Mapping[str, int],
    offset: LogOffset,
) -> ConsumerDetail:
    name, engine = one.entry.consumer, runtime.engine
    card, past = runtime.pool.processors.get(name), runtime.gauges.paces.of(name)
    restraint = runtime.restraints.get(name, Restraint())
    registered = engine.registry[name]
    waited = None if offset.since is None else engine.clock.now() - offset.since
    return ConsumerDetail(
        name=name,
        on=one.entry.on,
        accepts=one.accepts,
        runs="elsewhere" if card is None else card.runs,
        nodes=registered.nodes,
        registered_at=timestamp(registered.seen),
        gate=one.entry.gate,
        required=one.entry.required,
        paused=name in engine.paused.consumers,
        missing_tool=runtime.missing_tool(name),
        steps=steps,
        oldest_s=None if waited is None else max(0, waited) / 1000,
        log_offset=offset.offset,
        lag=offset.head - offset.offset,
        per_minute=past.per_minute,
        p50_s=engine.estimates.percentile_s(name, 50),
        p95_s=engine.estimates.percentile_s(name, 95),
        attempts=past.attempts,
        failures=past.failures,
        concurrency=restraint.concurrency,
        per_second=restraint.per_s,
    )


async def tenants(request: web.Request) -> web.Response:
    """Tell how many steps each tenant has."""
    runtime = _looked(request)
    steps: dict[str, dict[str, int]] = defaultdict(dict)
    for (tenant, state), n in (await runtime.db.tenant_tallies()).items():
        steps[tenant][state] = n
    paused, usage = runtime.engine.paused.tenants, await runtime.db.usage()
    return answer(
        Tenants(
            tenants=tuple(
                TenantView(
                    name=name or NO_TENANT,
                    paused=name in paused,
                    known=name in steps or name in usage,
                    steps=steps.get(name, {}),
                    stored_bytes=usage.get(name, 0),
                )
                for name in sorted({*steps, *paused, *usage})
            )
        )
    )


async def dead(request: web.Request) -> web.Response:
    """List a consumer's dead letters, or the files it has refused."""
    runtime = _looked(request, "limit", "before", "which")
    name = request.match_info["name"]
    runtime.engine.subscription(name)
    limit, before = _page(request)
    found = await runtime.db.dead_letters(
        name, before=before, limit=limit, refused=_wants_refused(request)
    )
    following = found[-1].step_id if len(found) == limit else None
    return answer(DeadLetters(steps=tuple(found), next=following))


async def running(request: web.Request) -> web.Response:
    """List the steps that are being worked on."""
    runtime = _looked(request)
    found = await runtime.db.running_steps(MOST_LISTED)
    waiting = {step for step, _token in runtime.dispatchers.waiting}
    shown = tuple(
        msgspec.structs.replace(
            one,
            progress=runtime.hub.percent(one.job_id, one.step),
            waiting=one.step_id in waiting,
        )
        for one in found
    )
    strays = tuple(
        StrayView(
            job_id=one.job_id,
            step=one.step,
            attempt=one.attempt,
            told_to_stop_at=timestamp(one.since),
        )
        for one in runtime.strays()
    )
    return answer(RunningSteps(steps=shown, strays=strays))


async def arriving(request: web.Request) -> web.Response:
    """List the uploads in progress."""
    runtime = _looked(request)
    found = [
        UploadingView(
            job_id=row.id,
            file_name=row.file_name,
            length=row.length,
            received=(await runtime.joiner.gathering.arrived(row))[0],
            dialect=row.dialect,
            tenant=row.tenant,
            is_part=row.is_part,
            error=runtime.joiner.why(row.id),
        )
        for row in await runtime.db.unfinished_uploads(0, MOST_LISTED)
    ]
    return answer(Arriving(uploads=tuple(found)))


async def audit(request: web.Request) -> web.Response:
    """List what was done by hand."""
    runtime = _looked(request, "limit", "before")
    limit, before = _page(request)
    found = await runtime.db.audits(before=before, limit=limit)
    following = found[-1].id if len(found) == limit else None
    return answer(Audit(entries=tuple(found), next=following))


async def alerts(request: web.Request) -> web.Response:
    """Tell which alerts are raised."""
    runtime = _looked(request)
    past = tuple(
        PastAlert(
            alert=one.alert.name,
            says=one.alert.says,
            since=timestamp(one.alert.since),
            until=timestamp(one.until),
        )
        for one in runtime.gauges.alerts.past()
    )
    return answer(AlertList(alerts=raised(runtime), past=past))


def raised(runtime: Runtime) -> tuple[AlertView, ...]:
    """Return the alerts that are raised now."""
    return tuple(
        AlertView(alert=one.name, says=one.says, since=timestamp(one.since))
        for one in runtime.gauges.alerts.current()
    )


def _page(request: web.Request) -> tuple[int, int | None]:
    limit = number_parameter(request, "limit", default=50, least=1, most=MAX_PAGE)
    before = number_parameter(request, "before", default=0, least=0, most=MAX_NUMBER)
    return limit, before or None


# ----- to do


def by_hand(request: web.Request, action: str, target: str, **detail: object) -> Note:
    """Return who does what to whom, for the audit. Raise unless it is an operator."""
    runtime, who = _asked(request)
    now = runtime.engine.clock.now()
    return Note(actor=who.owner, action=action, target=target, at=now, detail=detail)


async def pause(request: web.Request) -> web.Response:
    """Let a consumer begin no more steps."""
    return await _pause(request, on=True)


async def resume(request: web.Request) -> web.Response:
    """Let a consumer go on."""
    return await _pause(request, on=False)


async def _pause(request: web.Request, *, on: bool) -> web.Response:
    name = request.match_info["name"]
    note = by_hand(request, "pause" if on else "resume", name)
    await request.app[runtime_key].engine.pause_consumer(name, note, on=on)
    return await consumers(request)


async def forget(request: web.Request) -> web.Response:
    """Forget which other nodes have a consumer."""
    name = request.match_info["name"]
    note = by_hand(request, "forget", name)
    runtime = request.app[runtime_key]
    runtime.engine.subscription(name)
    try:
        await runtime.db.forget(name, node=runtime.engine.node, note=note)
    finally:
        await runtime.engine.look_up()
    return await consumers(request)


async def pause_tenant(request: web.Request) -> web.Response:
    """Let no more steps of a tenant begin."""
    return await _pause_tenant(request, on=True)


async def resume_tenant(request: web.Request) -> web.Response:
    """Let a tenant's steps begin again."""
    return await _pause_tenant(request, on=False)


async def _pause_tenant(request: web.Request, *, on: bool) -> web.Response:
    name = request.match_info["name"]
    note = by_hand(request, "pause-tenant" if on else "resume-tenant", name)
    if name != NO_TENANT and not _TENANT.match(name):
        accepted = "at most 200 characters that can be read"
        raise InvalidParameter("name", name, accepted=accepted)
    tenant = "" if name == NO_TENANT else name
    await request.app[runtime_key].engine.pause_tenant(tenant, note, on=on)
    return await tenants(request)


async def retry_dead(request: web.Request) -> web.Response:
    """Give every dead letter of a consumer another chance, or every refusal."""
    runtime = _looked(request, "which")
    name, refused = request.match_info["name"], _wants_refused(request)
    note = by_hand(request, "retry-refused" if refused else "retry-all", name)
    count = await runtime.engine.retry_dead(name, note, refused=refused)
    return answer(Done(steps=count), status=202)


async def replay(request: web.Request) -> web.Response:
    """Give a consumer old events once more."""
    runtime, _ = _asked(request)
    name = request.match_info["name"]
    body = await read_whole(request, request.app[orders_key], max_bytes=MAX_BODY)
    order = json_body(_replay, body)
    since = round(order.since.timestamp() * 1000)
    note = by_hand(request, "replay", name, since=order.since.isoformat())
    made, following = await runtime.engine.replay(
        name, note, since=since, after=order.after
    )
    return answer(Done(steps=made, next=following), status=202)


def _step(request: web.Request) -> int:
    text = request.match_info["step"]
    if not (text.isascii() and text.isdigit() and len(text) <= 15):  # noqa: PLR2004 -- digits of an id
        raise StepNotFound
    return int(text)


async def retry_step(request: web.Request) -> web.Response:
    """Give one dead letter another chance."""
    runtime, _ = _asked(request)
    step = _step(request)
    note = by_hand(request, "retry-step", str(step))
    await runtime.engine.retry_step(step, note)
    return answer(Done(steps=1), status=202)


async def cancel_step(request: web.Request) -> web.Response:
    """Take one open step back."""
    runtime, _ = _asked(request)
    step = _step(request)
    note = by_hand(request, "cancel-step", str(step))
    await runtime.engine.cancel_step(step, note)
    return answer(Done(steps=1))


async def drain(request: web.Request) -> web.Response:
    """Let no step begin any more; what runs goes on to its end."""
    return await _drain(request, on=True)


async def resume_all(request: web.Request) -> web.Response:
    """Let steps begin again; consumers and tenants that were paused stay so."""
    return await _drain(request, on=False)


async def _drain(request: web.Request, *, on: bool) -> web.Response:
    runtime, _ = _asked(request)
    note = by_hand(request, "drain" if on else "resume-all", "server")
    await runtime.engine.drain(note, on=on)
    return answer(Draining(draining=on, running=runtime.dispatchers.running))
