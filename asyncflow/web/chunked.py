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
- What is said of the file may come with any chunk, and never contradict what was said
  with another. What came expressly is kept as Upload-Metadata.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, Final

import msgspec
from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.admission import FORM_BYTES
from asyncflow.engine import PIPELINE
from asyncflow.errors import (
    BlobNotFound,
    ChunkConflict,
    ClientError,
    DigestMismatch,
    InvalidMultipart,
    InvalidParameter,
    MissingFile,
    PartNotUsable,
    UnsupportedContentType,
    UploadGone,
    UploadNotFound,
)
from asyncflow.joining import said_expressly
from asyncflow.runtime import Runtime
from asyncflow.store.digests import digest_of
from asyncflow.turns import Announced, Body, Ends, Head, Upload, said_of
from asyncflow.uploads import Checksum
from asyncflow.views import View
from asyncflow.web.auth import UPLOAD, Principal, require
from asyncflow.web.base64body import Base64Body, split
from asyncflow.web.bodies import continue_later
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
    json_body,
    read_metadata,
    refuse_encoding,
    shown_metadata,
)
from asyncflow.web.wholes import check_length

CHUNK: Final = "chunk"
MAX_CHUNKS: Final = 10_000
#: an answer lists no more missing chunks than this
MAX_LISTED: Final = 1000
MAX_JSON: Final = 16 << 20
#: keys of Upload-Metadata -> fields that say the same here
ABOUT: Final[Mapping[str, str]] = {"filename": "fileName", "filetype": "fileType"}

_NUMBER = re.compile(r"[0-9]{1,9}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class ChunkAnswer(View, frozen=True, kw_only=True):
    """How far a file is that arrives in chunks."""

    job_id: str
    received: int
    missing: tuple[int, ...]
    status_url: str


class _Json(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
):
    chunk_index: Annotated[int, msgspec.Meta(ge=0)]
    total_chunks: Annotated[int, msgspec.Meta(ge=1)]
    chunk: str
    job_id: str = ""
    file_name: str = ""
    file_type: str = ""
    sha256: str = ""
    pipeline: str = ""


class _Fields(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk's request says, checked."""

    index: int
    total: int
    job: str | None
    #: `filename` and `filetype`, as far as they were said expressly
    about: Mapping[str, str]
    #: what its part of the form is called
    fallback: str
    digest: Checksum | None
    pipeline: str


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


_json_body = msgspec.json.Decoder(_Json)


async def _json(request: web.Request, principal: Principal) -> web.Response:
    rate = request.app[runtime_key].settings.body_min_rate
    wholes = request.app[chunks_key]
    check_length(request, MAX_JSON)
    is_repeat = await admit_chunk(request, principal)
    async with wholes.read(request, max_bytes=MAX_JSON, min_rate=rate) as whole:
        await check_body(request, whole.data)
        fields, body = _said_in(whole.data)
        file = await _file(request, principal, fields, 0, is_repeat=is_repeat)
        part = await _keep(request, principal, body)
    return await _place(request, principal, fields, part, file)


def _said_in(text: bytearray) -> tuple[_Fields, Base64Body]:
    """Return what a chunk in JSON says, and its bytes."""
    beside, body = split(text, CHUNK)
    said = json_body(_json_body, beside)
    if said.chunk:
        accepted = "one string, under this name as it is"
        raise InvalidParameter(CHUNK, said.chunk[:40], accepted=accepted)
    fields = {
        "chunkIndex": str(said.chunk_index),
        "totalChunks": str(said.total_chunks),
        "jobId": said.job_id,
        "fileName": said.file_name,
        "fileType": said.file_type,
        "sha256": said.sha256,
        PIPELINE: said.pipeline,
    }
    return _fields(fields), body


class _Got:
    """What of a form has come so far."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}
        self.part: Upload | None = None
        #: what the chunk's own part of the form is called
        self.name = ""
        #: the file, if it was known before the bytes
        self.file: Upload | None = None

    @property
    def says_which(self) -> bool:
        """Tell whether it is known which chunk of which file comes."""
        return {"chunkIndex", "totalChunks", "jobId"} <= self.said.keys()


async def _form(request: web.Request, principal: Principal) -> web.Response:
    got = _Got()
    try:
        part = await _read_form(request, principal, got)
        fields = _fields(got.said, fallback=got.name)
    except BaseException as error:
        if got.part is not None:
            await request.app[runtime_key].chunks.endings.abandon(got.part.id, error)
        raise
    return await _place(request, principal, fields, part, got.file)


async def _read_form(request: web.Request, principal: Principal, got: _Got) -> Upload:
    is_repeat = await admit_chunk(request, principal)
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
                fields = _fields(got.said)
                size = max(0, (body_length(request) or 0) - FORM_BYTES)
                got.file = await _file(
                    request, principal, fields, size, is_repeat=is_repeat
                )
                if fields.index == 0:
                    bytes_of_chunk = await _watched(request, part, fields, got.file)
            got.part = await _keep(request, principal, bytes_of_chunk)
            got.name = part.file_name or ""
        else:
            got.said[name] = await part.text()
    if checked is not None:
        checked.check()
    if got.part is None:
        raise MissingFile("the form has no part named `chunk`")
    return got.part


def _fields(said: Mapping[str, str], *, fallback: str = "") -> _Fields:
    total = _number(said, "totalChunks", least=1, most=MAX_CHUNKS)
    job = said.get("jobId") or None
    if job is not None and not uploads.is_id(job.lower()):
        accepted = "a random UUID (version 4), or the jobId of an earlier answer"
        raise InvalidParameter("jobId", job, accepted=accepted)
    name = said.get("fileName", "").strip()
    about = {
        "filename": uploads.clean_name(name) if name else "",
        "filetype": uploads.clean_type(said.get("fileType")),
    }
    return _Fields(
        index=_number(said, "chunkIndex", least=0, most=total - 1),
        total=total,
        job=None if job is None else job.lower(),
        about={name: value for name, value in about.items() if value},
        fallback=fallback,
        digest=_sha256(said.get("sha256", "")),
        pipeline=said.get(PIPELINE, ""),
    )


def _sha256(text: str) -> Checksum | None:
    if not text:
        return None
    if not _SHA256.fullmatch(text):
        raise InvalidParameter("sha256", text, accepted="64 hexadecimal digits")
    return Checksum(algorithm="sha256", value=bytes.fromhex(text))


def _number(said: Mapping[str, str], name: str, *, least: int, most: int) -> int:
    value = said.get(name)
    if value is None or not _NUMBER.fullmatch(value) or not least <= int(value) <= most:
        accepted = f"a whole number from {least} to {most}"
        raise InvalidParameter(name, value, accepted=accepted)
    return int(value)


async def _file(
    request: web.Request,
    principal: Principal,
    fields: _Fields,
    at_least: int,
    *,
    is_repeat: bool,
) -> Upload | None:
    """Return the file of a chunk of *at_least* bytes; None: it may be created.

    Raises:
        ClientError, ServerBusy: the chunk cannot get its place, or no file may begin.
    """
    runtime = request.app[runtime_key]
    if fields.job is not None:
        with suppress(UploadNotFound):
            await _check_whole(runtime, principal, fields, fields.job)
            file = await runtime.chunks.find(fields.job)
            if not file.is_complete:
                await runtime.joiner.check(file, fields.total, fields.index, at_least)
            return file
    if not is_repeat:
        # chunks have one size as a rule, but for the last
        is_last = fields.index == fields.total - 1
        likely = at_least if is_last else at_least * (fields.total - 1)
        await check_new(request, principal, likely=likely)
    return None


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
    request: web.Request, body: Body, fields: _Fields, file: Upload | None
) -> Body:
    """Return the bytes of a first chunk, which end where they show a forbidden file.

    That one is refused then, and created for it, so that no other chunk begins it.
    """
    runtime, principal = request.app[runtime_key], require(request, UPLOAD)
    about = shown_metadata(fields.about)
    name, kind = _called(fields.about, "")
    said = uploads.Said(
        file_name=name, declared_type=kind, raw_metadata=about, digest=""
    )
    if file is not None:
        if file.is_complete:
            return body
        said = _said(fields, said_of(await runtime.db.find_upload(file.id)))

    async def judge(first: bytes) -> None:
        endings = runtime.chunks.endings
        try:
            endings.judge_early(said_expressly(said), first)
        except ClientError as refused:
            whole = file or await _whole(request, principal, fields)
            if await runtime.joiner.has(whole, fields.total, 0):
                return  # it is another chunk, and no part of the file
            await endings.refuse(whole.id, refused)
            raise

    return _FirstBytes(body, judge)


async def _keep(request: web.Request, principal: Principal, body: Body) -> Upload:
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
    fields: _Fields,
    part: Upload,
    whole: Upload | None,
) -> web.Response:
    """Put a stored chunk where it belongs, and answer."""
    runtime = request.app[runtime_key]
    try:
        if whole is None:
            whole = await _whole(request, principal, fields)
        where = (fields.total, fields.index, part)
        say = partial(_said, fields)
        place = runtime.joiner.place
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
        whole = await runtime.joiner.settle(whole.id)
    if whole.is_complete:
        await _check_digest(request, whole.id, fields.digest)
    missing = there.missing(MAX_LISTED)
    return _answer(runtime, whole.id, there.count, missing)


async def _whole(request: web.Request, principal: Principal, fields: _Fields) -> Upload:
    """Return the upload that the chunk belongs to; the first chunk creates it."""
    runtime = request.app[runtime_key]
    if fields.job is not None:
        with suppress(UploadNotFound):
            await _check_whole(runtime, principal, fields, fields.job)
            return await runtime.chunks.find(fields.job)
    name, kind = _called(fields.about, fields.fallback)
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


def _called(about: Mapping[str, str], fallback: str) -> tuple[str, str]:
    """Return the name of a file and its declared type."""
    name = uploads.clean_name(about.get("filename") or fallback)
    return name, uploads.declared_type(name, about.get("filetype"))


async def _check_whole(
    runtime: Runtime, principal: Principal, fields: _Fields, job: str
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
    _said(fields, said)


def _said(fields: _Fields, before: uploads.Said) -> uploads.Said:
    """Return what is said of the file with this chunk as well.

    Raises:
        InvalidParameter: it contradicts what was said before.
    """
    known = read_metadata(before.raw_metadata)
    for name, value in fields.about.items():
        if known.get(name, value) != value:
            accepted = f"{known[name]!r}, as with another chunk"
            raise InvalidParameter(ABOUT[name], value, accepted=accepted)
    digest = "" if fields.digest is None else str(fields.digest)
    if fields.digest is not None and before.digest not in {"", digest}:
        accepted = "the one that came with another chunk"
        raise InvalidParameter("sha256", fields.digest.value.hex(), accepted=accepted)
    said = replace(before, digest=before.digest or digest)
    about = {**fields.about, **known}
    if about == known:
        return said
    name, kind = _called(about, before.file_name)
    raw = shown_metadata(about)
    return replace(said, file_name=name, declared_type=kind, raw_metadata=raw)


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
    request: web.Request, whole: Upload, fields: _Fields, part: Upload
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
