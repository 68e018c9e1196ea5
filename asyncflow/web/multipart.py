"""Uploads in one request: a form with files, or the bytes themselves.

`POST /upload` takes `multipart/form-data` (parts named `file`, one or several) or a raw
body with its name in `?name=` or Content-Disposition; `PUT /upload/{name}` takes what
`curl -T photo.jpg …/upload/` sends. Parts stream to the store: nothing is ever held
whole in memory, and a file counts only when all of it has arrived.
"""

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.engine import PIPELINE
from asyncflow.errors import (
    AsyncflowError,
    BlobNotFound,
    ChecksumMismatch,
    ClientError,
    DigestMismatch,
    DiskFull,
    InvalidHeader,
    InvalidMultipart,
    KeyReused,
    LengthMismatch,
    MissingBody,
    MissingFile,
    ServerBusy,
    SlowBody,
    TruncatedBody,
    UploadBusy,
    UploadComplete,
    UploadGone,
)
from asyncflow.runtime import Runtime
from asyncflow.turns import NO_CLAIMS, Announced, Claims, Ends, Upload
from asyncflow.views import ErrorView, View
from asyncflow.web import resumable
from asyncflow.web.auth import UPLOAD, Principal, require
from asyncflow.web.bodies import BodyReader, BytesBody, continue_later
from asyncflow.web.digested import Digested, check_nothing, digested
from asyncflow.web.errors import forget_frames, status_of
from asyncflow.web.formdata import FormReader, Part
from asyncflow.web.intake import (
    JOB_ID,
    WRONG_BODY,
    admit_form,
    body_length,
    chosen,
    client_of,
    digest_of_file,
    digests_of,
    form_body,
    key_of_file,
    once_of,
    refuse_range,
)
from asyncflow.web.keys import digests_key, fast_key, runtime_key
from asyncflow.web.parsing import content_disposition, number_header, refuse_encoding

FIELD: Final = "file"
#: why an upload ended that cannot be resumed
_NOT_KEPT: Final[Mapping[type[BaseException], str]] = {
    TruncatedBody: "the body ended before the file did; nothing of it is kept",
    SlowBody: "the body came too slowly; nothing of it is kept",
    DiskFull: "the disk has no room for the file; nothing of it is kept",
}
#: tries to begin an upload beside others with the same Idempotency-Key
BEGINNINGS: Final = 3


class UploadAnswer(View, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to one file of a request."""

    job_id: str | None
    status: str
    message: str
    file_name: str | None
    status_url: str | None
    estimated_time: float | None
    upload_time_ms: int
    error: ErrorView | None = None


class UploadAnswers(View, frozen=True, kw_only=True):
    """What happened to several files, in the order in which they came."""

    jobs: tuple[UploadAnswer, ...]


#: headers that say that there is a body, though it may be empty
_FRAMING: Final = (hdrs.CONTENT_LENGTH, hdrs.TRANSFER_ENCODING)


def add_routes(app: web.Application) -> None:
    """Add the one-request uploads to *app*."""
    app.router.add_post("/upload", post, expect_handler=continue_later)
    app.router.add_put("/upload/{name}", put, expect_handler=continue_later)
    for path in ("/upload", "/upload/{name}"):
        app.router.add_route(hdrs.METH_OPTIONS, path, resumable.discover)


async def put(request: web.Request) -> web.Response:
    """Take the body as the file called like the last part of the address (PUT)."""
    return await _raw(request, request.match_info["name"])


async def post(request: web.Request) -> web.Response:
    """Take a form with files, or a raw body (POST)."""
    if request.content_type.startswith("multipart/"):
        return await _form(request)
    said = content_disposition(request.headers.get(hdrs.CONTENT_DISPOSITION, ""))
    return await _raw(request, request.query.get("name") or said[1])


async def _raw(request: web.Request, name: str | None) -> web.Response:
    pipeline = request.query.get(PIPELINE)
    if resumable.begins_here(request):
        return await resumable.create(request, name=name, pipeline=pipeline)
    principal = require(request, UPLOAD)
    refuse_encoding(request)
    refuse_range(request)
    runtime = request.app[runtime_key]
    began = time.monotonic()
    length = body_length(request)
    if length == 0 and not any(name in request.headers for name in _FRAMING):
        raise MissingBody
    total = number_header(request.headers, "Upload-Length")
    if total is not None and length not in {total, None if total else 0}:
        shown = "unknown" if length is None else f"{length} bytes"
        raise LengthMismatch(f"Upload-Length is {total}, but the body's is {shown}")
    shown, digest = uploads.clean_name(name), digest_of_file(request)
    said = Announced(
        owner=principal.owner,
        tenant=principal.tenant,
        file_name=shown,
        declared_type=uploads.declared_type(shown, request.content_type),
        length=total if length is None else length,
        client=client_of(request, principal),
        once=once_of(request, shown, length, request.content_type, pipeline),
        metadata=chosen(pipeline),
        digest=digest,
    )
    if said.length == 0:
        # it is complete once it is created
        check_nothing(request)
    fast = request.app[fast_key]
    body = BodyReader(request, min_rate=runtime.settings.body_min_rate, fast=fast)
    try:
        upload = await _store(
            request, said, body, length=length, claims=digests_of(request)
        )
    finally:
        body.close()
    return _accepted(_answer(runtime, said, upload, began))


def _accepted(answer: UploadAnswer) -> web.Response:
    return web.Response(
        status=202,
        body=msgspec.json.encode(answer),
        content_type="application/json",
        headers={JOB_ID: answer.job_id or "", hdrs.CACHE_CONTROL: "no-store"},
    )


async def _store(
    request: web.Request,
    said: Announced,
    body: BodyReader | Part,
    *,
    length: int | None,
    ends: Ends = Ends.WITH_BODY,
    claims: Claims = NO_CLAIMS,
) -> Upload:
    """Create, fill and complete an upload; leave nothing behind if that fails.

    *ends*: LATER leaves its completion to the caller.

    With an Idempotency-Key it may be complete already.
    """
    runtime = request.app[runtime_key]
    upload = await _begin(runtime, said)
    if upload.is_complete and upload.is_known:
        await _compare(request, upload, body, claims)
        return upload
    runtime.metrics.uploads_created.inc("form" if length is None else "raw")
    if upload.is_complete:
        # it has no bytes
        return upload
    try:
        upload = await runtime.chunks.append(
            upload.id, 0, body, length=length, ends=ends, claims=claims
        )
    except BaseException as error:
        await runtime.chunks.endings.abandon(upload.id, error)
        if isinstance(error, ChecksumMismatch):
            raise DigestMismatch(WRONG_BODY) from None
        if not str(error) and type(error) in _NOT_KEPT:
            # elsewhere these say that what arrived is kept
            raise type(error)(_NOT_KEPT[type(error)]) from error
        raise
    finally:
        runtime.metrics.bytes_received.inc(by=body.received)
    return upload


async def _compare(
    request: web.Request, upload: Upload, body: BodyReader | Part, claims: Claims
) -> None:
    """Return if *body* is the file that came first with an Idempotency-Key.

    Raises:
        DigestMismatch: it is not what the request itself says.
        KeyReused: it is another one. Of a file that was removed since, and whose digest
            nobody knows, only the size is compared.
    """
    hasher, digests = hashlib.sha256(), request.app[digests_key]
    checked = digested(request, body) if isinstance(body, BodyReader) else None
    while data := await (checked or body).read():
        hasher.update(data)
    if checked is not None:
        checked.check()
    with suppress(BlobNotFound):
        is_same = body.received == upload.offset
        if is_same:
            stored = await digests.of(request, upload.id, "sha256")
            is_same = stored.value == hasher.digest()
        if not is_same:
            raise KeyReused("this Idempotency-Key came before, with another file")
        for said in claims.whole()[:1]:
            if await digests.of(request, upload.id, said.algorithm) != said:
                raise DigestMismatch


async def _begin(runtime: Runtime, said: Announced) -> Upload:
    """Create an upload, or return the complete one of the same Idempotency-Key.

    One that is not complete is ended: nobody can go on with a body that broke off.
    """
    for _ in range(BEGINNINGS):
        # the request that broke off may end its upload itself meanwhile
        with suppress(UploadGone, UploadComplete):
            upload = await runtime.chunks.create(said)
            if upload.is_complete or not upload.is_known:
                return upload
            await runtime.chunks.terminate(upload.id)
    raise UploadBusy


def _answer(
    runtime: Runtime,
    said: Announced,
    upload: Upload,
    began: float,
) -> UploadAnswer:
    return UploadAnswer(
        job_id=upload.id,
        status=upload.told_state,
        message="File received, processing begins.",
        file_name=said.file_name,
        status_url=f"{runtime.public_path}/status/{upload.id}",
        estimated_time=runtime.estimate_s(said.declared_type, upload.offset),
        upload_time_ms=round((time.monotonic() - began) * 1000),
    )


# ----- forms


async def _form(request: web.Request) -> web.Response:
    principal = require(request, UPLOAD)
    refuse_encoding(request)
    if resumable.begins_here(request) and not resumable.says_complete(request):
        raise InvalidHeader(resumable.COMPLETE, "?0", accepted="?1: a form comes whole")
    runtime = request.app[runtime_key]
    await admit_form(request, principal)
    body = form_body(request)
    checked = digested(request, body)
    form = FormReader(checked or body, request.headers[hdrs.CONTENT_TYPE])
    told = _Told()
    files = _Files(request, principal, form, told)
    if checked is not None:
        await _take_checked(runtime, files, checked)
        return told.answer()
    try:
        await files.take()
    except (ClientError, ServerBusy) as broken:
        # What was accepted before must be told: its sender would send it again.
        if not told.has_accepted:
            raise
        if told.refusals[-1:] != [broken]:
            told.refuse(None, broken, time.monotonic())
    return told.answer()


async def _take_checked(runtime: Runtime, files: "_Files", checked: Digested) -> None:
    """Take the files of a form that is the one announced, or none of them."""
    endings, held = runtime.chunks.endings, files.held
    try:
        await files.take(ends=Ends.LATER)
        checked.check()
        while held:
            await _complete(runtime, files, min(held))
            del held[min(held)]
    except BaseException as error:
        for upload in held.values():
            # where nothing can be written now, the next start or its time ends it
            with suppress(AsyncflowError):
                await endings.abandon(upload.id, error)
        raise


async def _complete(runtime: Runtime, files: "_Files", n: int) -> None:
    """Make a held file a job, or take back that it was taken."""
    upload, nothing = files.held[n], BytesBody(b"")
    try:
        await runtime.chunks.append(
            upload.id, upload.offset, nothing, length=0, ends=Ends.WITH_BODY
        )
    except (ClientError, ServerBusy) as refused:
        await runtime.chunks.endings.abandon(upload.id, refused)
        files.told.take_back(n, refused)


class _Files:
    """The files of one form."""

    def __init__(
        self,
        request: web.Request,
        principal: Principal,
        form: FormReader,
        told: "_Told",
    ) -> None:
        self._request = request
        self._principal = principal
        self._form = form
        self.told = told
        #: what somebody else completes, by its place in the answer
        self.held: dict[int, Upload] = {}

    async def take(self, *, ends: Ends = Ends.WITH_BODY) -> None:
        """Store them one after the other, up to the end of the form."""
        pipeline = self._request.query.get(PIPELINE)
        while (part := await self._form.next_part()) is not None:
            if part.name == FIELD and await _is_file(part):
                n = len(self.told.answers)
                said = _announced(
                    self._request, part, self._principal, n=n, pipeline=pipeline
                )
                await self._take_part(part, said, ends)
            elif part.name == PIPELINE:
                # of the files that come after it
                pipeline = await part.text()

    async def _take_part(self, part: Part, said: Announced, ends: Ends) -> None:
        """Store one file; what is wrong with it leaves the next one its chance."""
        runtime, told = self._request.app[runtime_key], self.told
        began = time.monotonic()
        try:
            upload = await _store(self._request, said, part, length=None, ends=ends)
        except (ClientError, ServerBusy) as refused:
            told.refuse(said.file_name, refused, began)
            if isinstance(refused, _ENDS_A_FORM):
                raise
        else:
            if not upload.is_complete:
                self.held[len(told.answers)] = upload
            told.accept(_answer(runtime, said, upload, began))


async def _is_file(part: Part) -> bool:
    """Tell whether a part holds a file: a form where nobody chose one has none."""
    if part.file_name is None:
        return False
    return part.file_name != "" or not await part.is_empty()


#: the body is broken, or there is no room for the rest of it
_ENDS_A_FORM: Final = (InvalidMultipart, TruncatedBody, SlowBody, ServerBusy)


class _Told:
    """What a form's sender is to be told, file by file."""

    def __init__(self) -> None:
        self.answers: list[UploadAnswer] = []
        self.refusals: list[AsyncflowError] = []

    @property
    def has_accepted(self) -> bool:
        """Tell whether a file of the form has become a job."""
        return len(self.answers) > len(self.refusals)

    def accept(self, answer: UploadAnswer) -> None:
        """Note a file that has become a job."""
        self.answers.append(answer)

    def refuse(
        self, file_name: str | None, refused: AsyncflowError, began: float
    ) -> None:
        """Note a file that was refused; None: what broke between two files."""
        forget_frames(refused)
        self.refusals.append(refused)
        self.answers.append(_refusal(file_name, refused, began))

    def take_back(self, n: int, refused: AsyncflowError) -> None:
        """Note that a file has become no job after all."""
        forget_frames(refused)
        self.refusals.append(refused)
        name = self.answers[n].file_name
        self.answers[n] = _refusal(name, refused, time.monotonic())

    def answer(self) -> web.Response:
        """Return the answer: one file's own, or a list in the order of the files.

        Raises:
            MissingFile: there was no file.
            AsyncflowError: the only file was refused for this reason.
        """
        if not self.answers:
            raise MissingFile
        if len(self.answers) > 1:
            return self._several()
        if self.refusals:
            raise self.refusals[0]
        return _accepted(self.answers[0])

    def _several(self) -> web.Response:
        status = 202 if self.has_accepted else status_of(type(self.refusals[0]))
        return web.Response(
            status=status,
            body=msgspec.json.encode(UploadAnswers(jobs=tuple(self.answers))),
            content_type="application/json",
            headers={hdrs.CACHE_CONTROL: "no-store"},
        )


def _announced(
    request: web.Request,
    part: Part,
    principal: Principal,
    *,
    n: int,
    pipeline: str | None,
) -> Announced:
    shown = uploads.clean_name(part.file_name)
    once = once_of(request, n, shown, part.content_type, pipeline)
    if once is not None:
        once = key_of_file(once, n)
    return Announced(
        owner=principal.owner,
        tenant=principal.tenant,
        file_name=shown,
        declared_type=uploads.declared_type(shown, part.content_type),
        length=None,
        client=client_of(request, principal),
        metadata=chosen(pipeline),
        once=once,
    )


def _refusal(
    file_name: str | None, refused: AsyncflowError, began: float
) -> UploadAnswer:
    return UploadAnswer(
        job_id=None,
        status="REFUSED",
        message=refused.detail,
        file_name=file_name,
        status_url=None,
        estimated_time=None,
        upload_time_ms=round((time.monotonic() - began) * 1000),
        error=ErrorView(code=refused.code, detail=refused.detail),
    )
