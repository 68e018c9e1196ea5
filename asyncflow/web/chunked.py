"""Uploads chunk by chunk, in any order: `POST /upload/chunked`.

Rules
-----
- A chunk is a partial upload; the file is joined from them when none is missing.
- The file counts among open uploads, and as new work when it begins; its chunks do not.
- What can be known of a chunk's file is looked at before the chunk's bytes are taken:
  in a form, as far as the fields that stand before them say it.
- The `jobId` is the joined upload's id: a random UUID of the client's, or one of ours.
- A chunk counts once it is whole and durable. What belongs to no place, because its
  request broke off or contradicts others, is given up.
- The fields of a form may come before or after the bytes.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.admission import FORM_BYTES
from asyncflow.errors import (
    BlobNotFound,
    ChunkConflict,
    ClientError,
    DigestMismatch,
    InvalidMultipart,
    MissingFile,
    PartNotUsable,
    UnsupportedContentType,
    UploadGone,
    UploadNotFound,
)
from asyncflow.gathering import said_expressly
from asyncflow.prospects import Prospect
from asyncflow.reservations import Reservation
from asyncflow.runtime import Runtime
from asyncflow.store.digests import digest_of
from asyncflow.turns import Announced, Body, Ends, Head, Upload, said_of
from asyncflow.uploads import Checksum
from asyncflow.views import View
from asyncflow.web.auth import UPLOAD, Principal, require
from asyncflow.web.bodies import continue_later
from asyncflow.web.chunkfields import (
    CHUNK,
    Fields,
    called,
    fields_of,
    said_in,
    said_with,
)
from asyncflow.web.digested import check_body, digested
from asyncflow.web.formdata import FormReader
from asyncflow.web.intake import (
    JOB_ID,
    admit_chunk,
    body_length,
    check_new,
    chosen,
    client_of,
    form_body,
    once_of,
)
from asyncflow.web.keys import chunks_key, digests_key, runtime_key
from asyncflow.web.parsing import (
    refuse_encoding,
    shown_metadata,
)
from asyncflow.web.wholes import check_length

#: an answer lists no more missing chunks than this
MAX_LISTED: Final = 1000
MAX_JSON: Final = 16 << 20


class ChunkAnswer(View, frozen=True, kw_only=True):
    """How far a file is that arrives in chunks."""

    job_id: str
    received: int
    missing: tuple[int, ...]
    status_url: str


def add_routes(app: web.Application) -> None:
    """Add the chunk API to *app*."""
    app.router.add_post("/upload/chunked", post, expect_handler=continue_later)


async def post(request: web.Request) -> web.Response:
    """Take one chunk (POST)."""
    principal = require(request, UPLOAD)
    refuse_encoding(request)
    if request.content_type == "application/json":
        return await _json(request, principal)
    if request.content_type.startswith("multipart/"):
        return await _form(request, principal)
    raise UnsupportedContentType("send multipart/form-data or application/json")


async def _json(request: web.Request, principal: Principal) -> web.Response:
    rate = request.app[runtime_key].settings.body_min_rate
    wholes = request.app[chunks_key]
    check_length(request, MAX_JSON)
    is_repeat = await admit_chunk(request, principal)
    # its bytes are base64
    size = _Size(least=0, most=(body_length(request) or 0) * 3 // 4)
    async with wholes.read(request, max_bytes=MAX_JSON, min_rate=rate) as whole:
        await check_body(request, whole.data)
        fields, body = said_in(whole.data)
        aim = await _aim(request, principal, fields, size, is_repeat=is_repeat)
        try:
            part = await _keep(request, principal, body, aim)
        except BaseException:
            aim.leave()
            raise
    try:
        return await _place(request, principal, fields, part, aim)
    finally:
        aim.leave()


class _Size(msgspec.Struct, frozen=True, kw_only=True):
    """How large a chunk is at least and at most, as far as its request tells."""

    least: int
    most: int

    def of_all(self, fields: Fields) -> tuple[int, int]:
        """Return how large its file is then: chunks have one size but for the last."""
        if fields.index == fields.total - 1:
            return self.least, self.most
        return self.least * (fields.total - 1), self.most * fields.total


@dataclass(slots=True)
class _Aim:
    """The file that a chunk is for, as far as that is known before its bytes."""

    runtime: Runtime
    file: Upload | None = None
    prospect: Prospect | None = None

    @property
    def within(self) -> Reservation | None:
        """What the file holds, and the chunk takes its share of."""
        return None if self.prospect is None else self.prospect.held

    async def foresee(
        self, fields: Fields, tenant: str, size: _Size, come: int
    ) -> None:
        """Let the file hold what it will take, of which so much has *come*.

        Raises:
            DiskFull, QuotaExceeded: it may not begin now.
        """
        least, most = size.of_all(fields)
        self.prospect = await self.runtime.admission.foresee(
            fields.job, tenant, least=0 if self.file else least, most=most - come
        )

    async def bind(self, upload_id: str) -> None:
        """Let the file, which has begun, hold that until it is over."""
        prospects, one = self.runtime.admission.prospects, self.prospect
        if one is None or not prospects.bind(one, upload_id):
            return
        try:
            row = await self.runtime.db.find_upload(upload_id)
            is_open = row.state == uploads.UploadState.RECEIVING
        except UploadNotFound:
            is_open = False
        if not is_open:
            # nobody says so again
            prospects.end(upload_id)

    def leave(self) -> None:
        """Take note that the request is over."""
        if self.prospect is not None:
            self.runtime.admission.prospects.leave(self.prospect)
            self.prospect = None


class _Got:
    """What of a form has come so far."""

    def __init__(self, aim: _Aim) -> None:
        self.said: dict[str, str] = {}
        self.part: Upload | None = None
        #: what the chunk's own part of the form is called
        self.name = ""
        #: the file, if it was known which one before the bytes
        self.aim = aim

    @property
    def says_which(self) -> bool:
        """Tell whether it is known which chunk of which file comes."""
        return {"chunkIndex", "totalChunks", "jobId"} <= self.said.keys()


async def _form(request: web.Request, principal: Principal) -> web.Response:
    got = _Got(_Aim(request.app[runtime_key]))
    try:
        part = await _read_form(request, principal, got)
        fields = fields_of(got.said, fallback=got.name)
    except BaseException as error:
        if got.part is not None:
            await request.app[runtime_key].chunks.endings.abandon(got.part.id, error)
        got.aim.leave()
        raise
    try:
        return await _place(request, principal, fields, part, got.aim)
    finally:
        got.aim.leave()


async def _read_form(request: web.Request, principal: Principal, got: _Got) -> Upload:
    is_repeat = await admit_chunk(request, principal)
    # now: once it has been read, it is told as none
    most = body_length(request) or 0
    body = form_body(request)
    checked = digested(request, body)
    form = FormReader(checked or body, request.headers[hdrs.CONTENT_TYPE])
    while (part := await form.next_part()) is not None:
        name = part.name or ""
        if name in got.said or (name == CHUNK and got.part is not None):
            raise InvalidMultipart(f"the form has two fields {name!r}")
        if name == CHUNK:
            bytes_of_chunk: Body = part
            if got.says_which:
                fields = fields_of(got.said)
                size = _Size(least=max(0, most - FORM_BYTES), most=most)
                got.aim = await _aim(
                    request, principal, fields, size, is_repeat=is_repeat
                )
                if fields.index == 0:
                    file = got.aim.file
                    bytes_of_chunk = await _watched(request, part, fields, file)
            got.part = await _keep(request, principal, bytes_of_chunk, got.aim)
            got.name = part.file_name or ""
        else:
            got.said[name] = await part.text()
    if checked is not None:
        checked.check()
    if got.part is None:
        raise MissingFile("the form has no part named `chunk`")
    return got.part


async def _aim(
    request: web.Request,
    principal: Principal,
    fields: Fields,
    size: _Size,
    *,
    is_repeat: bool,
) -> _Aim:
    """Return the file of a chunk of that *size*; the file holds what it will take.

    Raises:
        ClientError, ServerBusy: the chunk cannot get its place, or no file may begin.
    """
    runtime, come = request.app[runtime_key], None
    aim = _Aim(runtime)
    if fields.job is not None:
        with suppress(UploadNotFound):
            await _check_whole(runtime, principal, fields, fields.job)
            aim.file = await runtime.chunks.find(fields.job)
            if not aim.file.is_complete:
                where = (fields.total, fields.index)
                come = await runtime.joiner.gathering.check(
                    aim.file, *where, size.least
                )
                if come is None:
                    # a repeat asks for nothing new, and takes its room from the file's
                    size, come = _Size(least=0, most=0), 0
    if aim.file is None and not is_repeat:
        await check_new(request, principal)
        come = 0
    if come is not None:
        await aim.foresee(fields, principal.tenant, size, come)
    return aim


class _FirstBytes:
    """The bytes of a file's first chunk: *judge* is asked as soon as its kind shows."""

    def __init__(self, body: Body, judge: Callable[[bytes], Awaitable[None]]) -> None:
        self._body, self._judge = body, judge
        self._head = Head(b"")

    async def read(self) -> bytes:
        """Return the next bytes; raise what *judge* raises."""
        data = await self._body.read()
        if self._head.wants_more:
            self._head.add(data)
            if not self._head.wants_more:
                await self._judge(bytes(self._head.data))
        return data

    def stop(self, error: Exception) -> None:
        """Make the read that waits now, or the next one, raise *error*."""
        self._body.stop(error)


async def _watched(
    request: web.Request, body: Body, fields: Fields, file: Upload | None
) -> Body:
    """Return the bytes of a first chunk, which end where they show a forbidden file.

    That one is refused then, and created for it, so that no other chunk begins it.
    """
    runtime, principal = request.app[runtime_key], require(request, UPLOAD)
    about = shown_metadata(fields.about)
    name, kind = called(fields.about, "")
    said = uploads.Said(
        file_name=name, declared_type=kind, raw_metadata=about, digest=""
    )
    if file is not None:
        if file.is_complete:
            return body
        said = said_with(fields, said_of(await runtime.db.find_upload(file.id)))

    async def judge(first: bytes) -> None:
        endings = runtime.chunks.endings
        try:
            endings.judge_early(said_expressly(said), first)
        except ClientError as refused:
            whole = file or await _whole(request, principal, fields)
            if await runtime.joiner.gathering.has(whole, fields.total, 0):
                return  # it is another chunk, and no part of the file
            await endings.refuse(whole.id, refused)
            raise

    return _FirstBytes(body, judge)


async def _keep(
    request: web.Request, principal: Principal, body: Body, aim: _Aim
) -> Upload:
    """Store the bytes of a chunk as a part; leave nothing behind if that fails."""
    runtime = request.app[runtime_key]
    part = await runtime.chunks.create(
        Announced(
            owner=principal.owner,
            tenant=principal.tenant,
            file_name=CHUNK,
            declared_type="application/octet-stream",
            length=None,
            is_part=True,
            within=aim.within,
        )
    )
    try:
        part = await runtime.chunks.append(
            part.id, 0, body, length=None, ends=Ends.WITH_BODY
        )
    except BaseException as error:
        await runtime.chunks.endings.abandon(part.id, error)
        raise
    runtime.metrics.bytes_received.inc(by=part.offset)
    return part


async def _place(
    request: web.Request,
    principal: Principal,
    fields: Fields,
    part: Upload,
    aim: _Aim,
) -> web.Response:
    """Put a stored chunk where it belongs, and answer."""
    runtime = request.app[runtime_key]
    try:
        whole = aim.file or await _whole(request, principal, fields)
        await aim.bind(whole.id)
        where = (fields.total, fields.index, part)
        say = partial(said_with, fields)
        place = runtime.joiner.gathering.place
        there = None if whole.is_complete else await place(whole, *where, say)
        if there is None:
            whole = await runtime.chunks.find(whole.id)
            await _compare(request, whole, fields, part)
            # unless it has gone with the others, or been found to be one of them
            with suppress(UploadNotFound, UploadGone):
                await runtime.chunks.terminate(part.id)
            return _answer(runtime, whole.id, fields.total, ())
    except BaseException as error:
        await runtime.chunks.endings.abandon(part.id, error)
        raise
    if there.is_all:
        # nothing more comes of it
        runtime.admission.prospects.end(whole.id)
        whole = await runtime.joiner.settle(whole.id)
    if whole.is_complete:
        await _check_digest(request, whole.id, fields.digest)
    missing = there.missing(MAX_LISTED)
    return _answer(runtime, whole.id, there.count, missing)


async def _whole(request: web.Request, principal: Principal, fields: Fields) -> Upload:
    """Return the upload that the chunk belongs to; the first chunk creates it."""
    runtime = request.app[runtime_key]
    if fields.job is not None:
        with suppress(UploadNotFound):
            await _check_whole(runtime, principal, fields, fields.job)
            return await runtime.chunks.find(fields.job)
    name, kind = called(fields.about, fields.fallback)
    facts = (fields.total, name, kind, fields.index, fields.pipeline)
    upload = await runtime.chunks.create(
        Announced(
            owner=principal.owner,
            tenant=principal.tenant,
            client=client_of(request, principal),
            file_name=name,
            declared_type=kind,
            length=None,
            id=fields.job,
            parts=fields.total,
            digest=fields.digest,
            metadata=chosen(fields.pipeline),
            raw_metadata=shown_metadata(fields.about),
            once=None if fields.job else once_of(request, *facts),
        )
    )
    runtime.metrics.uploads_created.inc("chunked")
    await _check_whole(runtime, principal, fields, upload.id)
    return upload


async def _check_whole(
    runtime: Runtime, principal: Principal, fields: Fields, job: str
) -> None:
    row = await runtime.db.find_upload(job)
    is_theirs = (row.owner, row.tenant) == (principal.owner, principal.tenant)
    if not is_theirs or row.parts is None or row.concat:
        raise PartNotUsable("this jobId names no upload that arrives in chunks")
    if row.parts != fields.total:
        raise ChunkConflict(
            f"totalChunks is {fields.total} now, but {row.parts} before"
        )
    said = said_of(row)
    if row.state == uploads.UploadState.COMPLETE:
        # its digest is the file's own, whoever has said it: `_check_digest` compares it
        said = replace(said, digest="")
    said_with(fields, said)


async def _check_digest(
    request: web.Request, job: str, digest: Checksum | None
) -> None:
    """Return if a complete file has a digest, where none was known when it was joined.

    Raises:
        DigestMismatch: it has another.
    """
    if digest is None:
        return
    digests = request.app[digests_key]
    with suppress(BlobNotFound):  # removed since: nothing to compare with
        if await digests.of(request, job, digest.algorithm) != digest:
            raise DigestMismatch("the file is complete, and has another sha256")


async def _compare(
    request: web.Request, whole: Upload, fields: Fields, part: Upload
) -> None:
    """Return if a chunk repeats what is in the complete file.

    Raises:
        ChunkConflict: it has other bytes.
        DigestMismatch: the file has not the digest that is said now.
    """
    await _check_digest(request, whole.id, fields.digest)
    runtime = request.app[runtime_key]
    span = await runtime.db.span_of(whole.id, fields.index)
    if span is None:
        return
    start, end = span
    raw, key = uploads.raw_key(whole.id), uploads.raw_key(part.id)
    with suppress(BlobNotFound):  # removed since: nothing to compare with
        is_same = part.offset == end - start and await digest_of(
            runtime.store, raw, "sha256", start, end
        ) == await digest_of(runtime.store, key, "sha256")
        if not is_same:
            raise ChunkConflict(
                f"chunk {fields.index} is in the complete file, with other bytes"
            )


def _answer(
    runtime: Runtime, job: str, received: int, missing: tuple[int, ...]
) -> web.Response:
    answer = ChunkAnswer(
        job_id=job,
        received=received,
        missing=missing,
        status_url=f"{runtime.public_path}/status/{job}",
    )
    return web.Response(
        status=200 if missing else 202,
        body=msgspec.json.encode(answer),
        content_type="application/json",
        headers={JOB_ID: job, hdrs.CACHE_CONTROL: "no-store"},
    )
