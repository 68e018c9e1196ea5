"""Resumable uploads as the IETF drafts them (draft-ietf-httpbis-resumable-upload).

Rules
-----
- The drafts that clients speak differ; each names its interop version. We speak 3 to
  10, and what will be without a number. Version 3 says Upload-Incomplete, the opposite
  of Upload-Complete; up to 5 an append has no media type of its own.
- Only a request with `Upload-Complete: ?1` completes an upload of the draft: never its
  length alone. One that began in tus is complete at its length, whoever brings it.
- 104 goes only to a client whose interop version is one of ours, and before its body
  is read: from then on it knows where to go on.
- The resources are those of tus: an upload begun in one may be finished in the other.
"""

import re
from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from asyncflow import turns, uploads
from asyncflow.errors import (
    BlobNotFound,
    ChecksumMismatch,
    DigestMismatch,
    InvalidHeader,
    LengthMismatch,
    PastUploadLength,
    ServerBusy,
    UnsupportedContentType,
    UploadNotFound,
)
from asyncflow.turns import Announced, Ends, Upload
from asyncflow.views import View
from asyncflow.web import fields
from asyncflow.web.auth import UPLOAD, Principal, require
from asyncflow.web.bodies import send_interim
from asyncflow.web.intake import (
    WRONG_BODY,
    body_length,
    chosen,
    client_of,
    digest_of_file,
    digests_of,
    fill,
    headers_of,
    location,
    once_of,
    refuse_range,
    upload_id,
)
from asyncflow.web.keys import digests_key, runtime_key
from asyncflow.web.parsing import content_disposition, refuse_encoding

INTEROP: Final = "Upload-Draft-Interop-Version"
COMPLETE: Final = "Upload-Complete"
INCOMPLETE: Final = "Upload-Incomplete"
LIMIT: Final = "Upload-Limit"
PARTIAL: Final = "application/partial-upload"
OLDEST: Final = 3
NEWEST: Final = 10
#: the last one whose appends have no media type of their own
UNTYPED: Final = 5

_VERSION = re.compile(r"[0-9]{1,3}")


class Done(View, frozen=True, kw_only=True):
    """What the sender of a complete upload hears."""

    job_id: str
    status: str
    status_url: str


def speaks(request: web.Request) -> bool:
    """Tell whether a request is in this dialect."""
    named = (COMPLETE, INCOMPLETE, INTEROP)
    if any(name in request.headers for name in named):
        return True
    return request.headers.get(hdrs.CONTENT_TYPE, "").startswith(PARTIAL)


def begins_here(request: web.Request) -> bool:
    """Tell whether a request to another resource begins an upload of the draft.

    A malformed field counts as none, as the draft demands.
    """
    names = (COMPLETE, INCOMPLETE)
    return any(fields.boolean(request.headers, name) is not None for name in names)


def version_of(request: web.Request) -> int | None:
    """Return the client's interop version, if it is one of ours."""
    value = request.headers.get(INTEROP, "")
    number = int(value) if _VERSION.fullmatch(value) else 0
    return number if OLDEST <= number <= NEWEST else None


def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Say an answer in the client's draft."""
    if response.status == web.HTTPRequestEntityTooLarge.status_code:
        response.headers.setdefault(LIMIT, discovery(request)[LIMIT])
    version = version_of(request)
    if version is None:
        return
    response.headers[INTEROP] = str(version)
    if version == OLDEST and COMPLETE in response.headers:
        is_complete = response.headers.pop(COMPLETE) == "?1"
        response.headers[INCOMPLETE] = "?0" if is_complete else "?1"


def discovery(request: web.Request) -> dict[str, str]:
    """Return the headers that say what this server takes."""
    rules = request.app[runtime_key].admission.rules
    return {LIMIT: fields.limits({"min-size": 0, "max-size": rules.max_bytes})}


def says_complete(request: web.Request) -> bool:
    """Tell whether the request brings the upload's end."""
    if version_of(request) == OLDEST:
        name, opposite = INCOMPLETE, True
    else:
        name, opposite = COMPLETE, False
    said = fields.boolean(request.headers, name)
    if said is None:
        value = request.headers.get(name)
        raise InvalidHeader(name, value, accepted="?0 or ?1")
    return said is not opposite


async def create(
    request: web.Request, *, name: str | None = None, pipeline: str | None = None
) -> web.Response:
    """Create an upload, with its first bytes, or all, if they come along.

    *name* and *pipeline* are what the address says.
    """
    principal = require(request, UPLOAD)
    refuse_encoding(request)
    refuse_range(request)
    is_complete = says_complete(request)
    length = _length(request, 0, is_complete=is_complete)
    said = _announced(request, principal, length, name, pipeline)
    runtime = request.app[runtime_key]
    upload = await runtime.chunks.create(said)
    runtime.metrics.uploads_created.inc("ietf")
    if not upload.is_known:
        was_told = await _tell_address(request, upload)
        try:
            upload = await _append(request, upload.id, 0, is_complete=is_complete)
        except BaseException as error:
            # Nobody else could go on with it.
            if not was_told and said.once is None:
                await runtime.chunks.endings.abandon(upload.id, error)
            raise
    return await _answer(request, upload, status=201)


def _length(request: web.Request, offset: int, *, is_complete: bool) -> int | None:
    """Return the upload's length as the request says it, in one way or two."""
    said = fields.integer(request.headers, "Upload-Length")
    coming = body_length(request)
    if not is_complete or coming is None:
        return said
    if said not in {None, offset + coming}:
        raise LengthMismatch(
            f"Upload-Length is {said}, but this body ends at {offset + coming}"
        )
    return offset + coming


def _announced(
    request: web.Request,
    principal: Principal,
    length: int | None,
    name: str | None,
    pipeline: str | None,
) -> Announced:
    disposition = request.headers.get(hdrs.CONTENT_DISPOSITION, "")
    name = uploads.clean_name(name or content_disposition(disposition)[1])
    kind = request.headers.get(hdrs.CONTENT_TYPE)
    if uploads.clean_type(kind) == PARTIAL:
        kind = None
    digest = digest_of_file(request)
    return Announced(
        owner=principal.owner,
        tenant=principal.tenant,
        client=client_of(request, principal),
        file_name=name,
        declared_type=uploads.declared_type(name, kind),
        length=length,
        dialect=turns.IETF,
        # an empty file has it once its request has been read
        has_end=says_complete(request) and bool(body_length(request)),
        digest=digest,
        metadata=chosen(pipeline),
        once=once_of(request, length, name, kind, pipeline, digest),
    )


async def _tell_address(request: web.Request, upload: Upload) -> bool:
    """Tell a client of our draft where its upload is, before it has sent it."""
    version = version_of(request)
    if version is None or request.version < HttpVersion11:
        return False
    runtime = request.app[runtime_key]
    head = {
        INTEROP: str(version),
        hdrs.LOCATION: location(request, runtime, upload.id),
        LIMIT: _limits(request, upload),
    }
    await send_interim(request, 104, "Upload Resumption Supported", head)
    return True


def _limits(request: web.Request, upload: Upload) -> str:
    runtime = request.app[runtime_key]
    values = {"max-size": runtime.admission.rules.max_bytes}
    if upload.expires is not None:
        left = upload.expires - runtime.engine.clock.now()
        values["max-age"] = max(0, left // 1000)
    return fields.limits(values)


async def discover(request: web.Request) -> web.Response:
    """Say what this server takes (OPTIONS)."""
    headers = {**discovery(request), hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(headers=headers)


async def append(request: web.Request) -> web.Response:
    """Append bytes at the offset (PATCH)."""
    require(request, UPLOAD)
    refuse_encoding(request)
    found = upload_id(request)
    _check_type(request)
    is_complete = says_complete(request)
    offset = fields.integer(request.headers, "Upload-Offset")
    if offset is None:
        value = request.headers.get("Upload-Offset")
        raise InvalidHeader("Upload-Offset", value, accepted="a whole number")
    upload = await _append(request, found, offset, is_complete=is_complete)
    return await _answer(request, upload, status=200 if upload.is_complete else 204)


def _check_type(request: web.Request) -> None:
    version = version_of(request)
    if version is not None and version <= UNTYPED:
        return
    if uploads.clean_type(request.headers.get(hdrs.CONTENT_TYPE)) != PARTIAL:
        raise UnsupportedContentType(f"Content-Type must be {PARTIAL}")


async def _append(
    request: web.Request, found: str, offset: int, *, is_complete: bool
) -> Upload:
    runtime = request.app[runtime_key]
    try:
        return await fill(
            request,
            found,
            offset,
            ends=Ends.WITH_BODY if is_complete else Ends.LATER,
            total=_length(request, offset, is_complete=is_complete),
            claims=digests_of(request),
        )
    except PastUploadLength:
        # as the draft demands: what such a client sends is not what it announced
        await runtime.chunks.terminate(found)
        raise
    except ChecksumMismatch:
        raise DigestMismatch(WRONG_BODY) from None


async def look(request: web.Request) -> web.Response:
    """Tell the offset (HEAD, GET)."""
    require(request, UPLOAD)
    runtime = request.app[runtime_key]
    upload = await runtime.chunks.find(upload_id(request))
    if upload.is_joined:
        upload = await runtime.joiner.settle(upload.id)
    headers = _shown(request, upload)
    if upload.is_complete:
        headers |= await _digest(request, upload)
    return web.Response(status=204, headers=headers)


async def cancel(request: web.Request) -> web.Response:
    """End an unfinished upload and give up its bytes (DELETE)."""
    require(request, UPLOAD)
    await request.app[runtime_key].chunks.terminate(upload_id(request))
    return web.Response(status=204)


def _shown(request: web.Request, upload: Upload) -> dict[str, str]:
    headers = headers_of(upload)
    headers[COMPLETE] = "?1" if upload.is_complete else "?0"
    headers[LIMIT] = _limits(request, upload)
    if upload.length is not None:
        headers["Upload-Length"] = str(upload.length)
    return headers


async def _digest(request: web.Request, upload: Upload) -> dict[str, str]:
    """Return the digest of the whole file that the client wants, if it does.

    Raises:
        ServerBusy: it is not known, and too many others wait for such.
    """
    wanted = fields.wanted_digest(request.headers)
    if wanted is None:
        return {}
    digests = request.app[digests_key]
    # the file may have been removed since
    with suppress(BlobNotFound, UploadNotFound):
        found = await digests.of(request, upload.id, fields.DIGESTS[wanted])
        return {"Repr-Digest": fields.shown_digest(found)}
    return {}


async def _answer(request: web.Request, upload: Upload, *, status: int) -> web.Response:
    runtime = request.app[runtime_key]
    headers = _shown(request, upload)
    if status == web.HTTPCreated.status_code:
        headers[hdrs.LOCATION] = location(request, runtime, upload.id)
    if not upload.is_complete:
        return web.Response(status=status, headers=headers)
    # the file is accepted: who wants more than to hear of it can ask again
    with suppress(ServerBusy):
        headers |= await _digest(request, upload)
    if upload.is_part:
        return web.Response(status=status, headers=headers)
    done = Done(
        job_id=upload.id,
        status=upload.told_state,
        status_url=f"{runtime.public_path}/status/{upload.id}",
    )
    return web.Response(
        status=status,
        headers=headers,
        body=msgspec.json.encode(done),
        content_type="application/json",
    )
