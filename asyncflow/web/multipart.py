"""Uploads in one request: a form with files, or the bytes themselves.

`POST /upload` takes `multipart/form-data` (parts named `file`, one or several) or a raw
body with its name in `?name=` or Content-Disposition; `PUT /upload/{name}` takes what
`curl -T photo.jpg …/upload/` sends. Parts stream to the store: nothing is ever held
whole in memory, and a file counts only when all of it has arrived.
"""

import time
from typing import Final

import msgspec
from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.chunks import Announced, Upload
from asyncflow.errors import (
    AsyncflowError,
    ClientError,
    EmptyFile,
    InvalidMultipart,
    MissingFile,
    TruncatedBody,
)
from asyncflow.jobs import JobState
from asyncflow.runtime import Runtime
from asyncflow.views import ErrorView, View
from asyncflow.web.auth import UPLOAD, Principal, require
from asyncflow.web.bodies import BodyReader, continue_later
from asyncflow.web.formdata import FormReader, Part
from asyncflow.web.keys import runtime_key
from asyncflow.web.parsing import content_disposition, refuse_encoding
from asyncflow.web.tus import JOB_ID, body_length

FIELD: Final = "file"


class UploadAnswer(View, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to one file of a request."""

    job_id: str | None
    status: str
    message: str
    file_name: str
    status_url: str | None
    estimated_time: float | None
    upload_time_ms: int
    error: ErrorView | None = None


class UploadAnswers(View, frozen=True, kw_only=True):
    """What happened to several files, in the order in which they came."""

    jobs: tuple[UploadAnswer, ...]


def add_routes(app: web.Application) -> None:
    """Add the one-request uploads to *app*."""
    app.router.add_post("/upload", post, expect_handler=continue_later)
    app.router.add_put("/upload/{name}", put, expect_handler=continue_later)


async def put(request: web.Request) -> web.Response:
    """Take the body as the file called like the last part of the address (PUT)."""
    principal = require(request, UPLOAD)
    refuse_encoding(request)
    return await _raw(request, principal, request.match_info["name"])


async def post(request: web.Request) -> web.Response:
    """Take a form with files, or a raw body (POST)."""
    principal = require(request, UPLOAD)
    refuse_encoding(request)
    if request.content_type.startswith("multipart/"):
        return await _form(request, principal)
    said = content_disposition(request.headers.get(hdrs.CONTENT_DISPOSITION, ""))
    return await _raw(request, principal, request.query.get("name") or said[1])


async def _raw(
    request: web.Request, principal: Principal, name: str | None
) -> web.Response:
    runtime = request.app[runtime_key]
    began = time.monotonic()
    length = body_length(request)
    if length == 0:
        raise EmptyFile("the request has no body: send the file as the body")
    shown = uploads.clean_name(name)
    said = Announced(
        owner=principal.owner,
        tenant=principal.tenant,
        file_name=shown,
        declared_type=uploads.declared_type(shown, request.content_type),
        length=length,
    )
    body = BodyReader(request, min_rate=runtime.settings.body_min_rate)
    upload = await _store(runtime, said, body, length=length)
    return _accepted(_answer(runtime, said, upload, began))


def _accepted(answer: UploadAnswer) -> web.Response:
    return web.Response(
        status=202,
        body=msgspec.json.encode(answer),
        content_type="application/json",
        headers={JOB_ID: answer.job_id or "", hdrs.CACHE_CONTROL: "no-store"},
    )


async def _store(
    runtime: Runtime,
    said: Announced,
    body: BodyReader | Part,
    *,
    length: int | None,
) -> Upload:
    """Create, fill and complete an upload; leave nothing behind if that fails."""
    upload = await runtime.chunks.create(said)
    runtime.metrics.uploads_created.inc("form" if length is None else "raw")
    try:
        upload = await runtime.chunks.append(
            upload.id, 0, body, length=length, is_rest=True
        )
    except BaseException as error:
        await runtime.chunks.abandon(upload.id, error)
        raise
    finally:
        runtime.metrics.bytes_received.inc(by=body.received)
    return upload


def _answer(
    runtime: Runtime,
    said: Announced,
    upload: Upload,
    began: float,
) -> UploadAnswer:
    return UploadAnswer(
        job_id=upload.id,
        status=JobState.PENDING,
        message="File received, processing begins.",
        file_name=said.file_name,
        status_url=f"{runtime.url_prefix}/status/{upload.id}",
        estimated_time=runtime.engine.estimate_s(said.declared_type),
        upload_time_ms=round((time.monotonic() - began) * 1000),
    )


# ----- forms


async def _form(request: web.Request, principal: Principal) -> web.Response:
    runtime = request.app[runtime_key]
    body = BodyReader(request, min_rate=runtime.settings.body_min_rate)
    form = FormReader(body, request.headers[hdrs.CONTENT_TYPE])
    answers: list[UploadAnswer] = []
    refusals: list[AsyncflowError] = []
    while (part := await form.next_part()) is not None:
        if part.name != FIELD or part.file_name is None:
            continue
        began = time.monotonic()
        said = _announced(part, principal)
        try:
            upload = await _store(runtime, said, part, length=None)
        except ClientError as refused:
            if isinstance(refused, InvalidMultipart | TruncatedBody):
                raise
            refusals.append(refused)
            answers.append(_refusal(said, refused, began))
        else:
            answers.append(_answer(runtime, said, upload, began))
    if not answers:
        raise MissingFile
    if len(answers) > 1:
        return _several(answers)
    if refusals:
        raise refusals[0]
    return _accepted(answers[0])


def _announced(part: Part, principal: Principal) -> Announced:
    shown = uploads.clean_name(part.file_name)
    return Announced(
        owner=principal.owner,
        tenant=principal.tenant,
        file_name=shown,
        declared_type=uploads.declared_type(shown, part.content_type),
        length=None,
    )


def _refusal(said: Announced, refused: ClientError, began: float) -> UploadAnswer:
    return UploadAnswer(
        job_id=None,
        status="REFUSED",
        message=refused.detail,
        file_name=said.file_name,
        status_url=None,
        estimated_time=None,
        upload_time_ms=round((time.monotonic() - began) * 1000),
        error=ErrorView(code=refused.code, detail=refused.detail),
    )


def _several(answers: list[UploadAnswer]) -> web.Response:
    return web.Response(
        status=202 if any(answer.job_id for answer in answers) else 400,
        body=msgspec.json.encode(UploadAnswers(jobs=tuple(answers))),
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )
