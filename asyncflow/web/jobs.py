"""Jobs over HTTP: status, lists, retry, cancel, delete."""

import hashlib
from typing import Final

import msgspec
from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.db.oversight import Note
from asyncflow.errors import InvalidParameter, JobNotFound
from asyncflow.jobs import JobState
from asyncflow.views import JobView, View
from asyncflow.web.auth import ADMIN, READ, UPLOAD, require
from asyncflow.web.keys import runtime_key
from asyncflow.web.parsing import number_parameter

MAX_PAGE: Final = 500
#: no file's name is longer
MAX_SEARCH: Final = 255

_encode = msgspec.json.Encoder().encode


class JobsPage(View, frozen=True, kw_only=True):
    """A page of jobs, newest first; `?after=` takes `next` for the following page."""

    jobs: tuple[JobView, ...]
    next: str | None


class RetryAnswer(View, frozen=True, kw_only=True):
    """A new run of a job has begun."""

    job_id: str
    run: int
    status_url: str


class CancelAnswer(View, frozen=True, kw_only=True):
    """`cancelled` is false if the job was over already."""

    job_id: str
    cancelled: bool


def add_routes(app: web.Application) -> None:
    """Add the job resources to *app*."""
    app.router.add_get("/status/{id}", status)
    app.router.add_get("/jobs/{id}", status)
    app.router.add_get("/jobs", listing)
    app.router.add_post("/jobs/{id}/retry", retry)
    app.router.add_post("/jobs/{id}/cancel", cancel)
    app.router.add_delete("/jobs/{id}", delete)


def job_id(request: web.Request) -> str:
    """Return the id in the address. Raise JobNotFound if it cannot be one."""
    found = request.match_info["id"]
    if not uploads.is_id(found):
        raise JobNotFound
    return found


async def status(request: web.Request) -> web.Response:
    """Tell everything about a job; 304 if nothing changed since the given ETag."""
    require(request, READ)
    view = await request.app[runtime_key].status(job_id(request))
    body = _encode(view)
    etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {hdrs.ETAG: etag, hdrs.CACHE_CONTROL: "no-cache"}
    known = request.headers.get(hdrs.IF_NONE_MATCH, "")
    if etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


async def listing(request: web.Request) -> web.Response:
    """List jobs, newest first, without their steps."""
    require(request, ADMIN)
    state = ", ".join(request.query.getall("state", [])) or None
    if "state" in request.query and state not in JobState.__members__:
        raise InvalidParameter("state", state, accepted=", ".join(JobState))
    limit = number_parameter(request, "limit", default=50, least=1, most=MAX_PAGE)
    after = number_parameter(request, "after", default=0, least=0, most=10**15 - 1)
    page = await request.app[runtime_key].db.jobs(
        state=None if state is None else JobState(state),
        before=after or None,
        limit=limit,
        search=request.query.get("search", "").strip()[:MAX_SEARCH],
    )
    following = None if page.next is None else str(page.next)
    return answer(JobsPage(jobs=page.jobs, next=following))


async def retry(request: web.Request, note: Note | None = None) -> web.Response:
    """Start a new run of what did not succeed."""
    require(request, UPLOAD)
    runtime = request.app[runtime_key]
    job = job_id(request)
    run = await runtime.engine.retry(job, note)
    url = f"{runtime.public_path}/status/{job}"
    return answer(RetryAnswer(job_id=job, run=run, status_url=url), status=202)


async def cancel(request: web.Request, note: Note | None = None) -> web.Response:
    """Close a job; what succeeded stays."""
    require(request, UPLOAD)
    job = job_id(request)
    done = await request.app[runtime_key].engine.cancel(job, note)
    return answer(CancelAnswer(job_id=job, cancelled=done))


async def delete(request: web.Request, note: Note | None = None) -> web.Response:
    """Forget a job with all its bytes."""
    require(request, UPLOAD)
    await request.app[runtime_key].engine.delete(job_id(request), note)
    return web.Response(status=204)


def answer(view: View, *, status: int = 200) -> web.Response:
    """Return *view* as JSON that nobody keeps."""
    return web.Response(
        status=status,
        body=_encode(view),
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )
