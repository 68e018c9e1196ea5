"""The tus 1.0 protocol: https://tus.io/protocols/resumable-upload.

Core and every extension: creation, creation-with-upload, creation-defer-length,
expiration, checksum, checksum-trailer, termination, concatenation and
concatenation-unfinished. Only headers are read here; what happens to the bytes is
`asyncflow.chunks` and `asyncflow.joining`.
"""

import base64
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from asyncflow import turns, uploads
from asyncflow.errors import (
    ChecksumMismatch,
    InvalidHeader,
    PartNotUsable,
    PastUploadLength,
    UnsupportedContentType,
    UnsupportedTusVersion,
)
from asyncflow.turns import NO_CLAIMS, Announced, Claims, Upload
from asyncflow.uploads import Checksum
from asyncflow.web.auth import UPLOAD, Principal, require
from asyncflow.web.bodies import BodyReader
from asyncflow.web.intake import (
    client_of,
    digests_of,
    fill,
    headers_of,
    location,
    once_of,
    upload_id,
)
from asyncflow.web.keys import runtime_key
from asyncflow.web.parsing import (
    needed_number_header,
    number_header,
    refuse_encoding,
    tus_metadata,
)
from asyncflow.web.trailers import announces, trailers

PRECONDITION_FAILED: Final = 412
TOO_LARGE: Final = 413
RESUMABLE: Final = "Tus-Resumable"
VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,"
    "checksum-trailer,termination,concatenation,concatenation-unfinished"
)
CHUNK_TYPE: Final = "application/offset+octet-stream"
CHECKSUM: Final = "Upload-Checksum"
CONCAT: Final = "Upload-Concat"
DEFER: Final = "Upload-Defer-Length"
#: their addresses, as /files/ID, fit into the largest header that is read
MAX_PARTS: Final = 700

_FINAL = re.compile(r"final;[ ]*(\S+(?:[ ]+\S+)*)")


def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put the headers that tus wants into an answer, refusals included."""
    response.headers[RESUMABLE] = VERSION
    if response.status == PRECONDITION_FAILED:
        response.headers["Tus-Version"] = VERSION
    if response.status == TOO_LARGE:
        response.headers["Tus-Max-Size"] = discovery(request)["Tus-Max-Size"]


def discovery(request: web.Request) -> dict[str, str]:
    """Return the headers that say what this server can do."""
    rules = request.app[runtime_key].admission.rules
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(rules.max_bytes),
        "Tus-Checksum-Algorithm": ",".join(uploads.CHECKSUMS),
    }


async def create(request: web.Request) -> web.Response:
    """Create an upload, with its first bytes if they come along (POST)."""
    principal = require(request, UPLOAD)
    check_version(request)
    refuse_encoding(request)
    concat = _concat(request)
    if concat.startswith("final"):
        return await _join(request, principal, concat)
    if concat not in {"", "partial"}:
        raise InvalidHeader(CONCAT, concat, accepted="partial, or final;/files/ID ...")
    length = _announced_length(request)
    with_body = _carries_chunk(request, length)
    claims = checksum(request) if with_body else NO_CLAIMS
    if with_body and length == 0:
        await _expect_nothing(request, claims)
    said = _announced(request, principal, length=length, concat=concat)
    runtime = request.app[runtime_key]
    upload = await runtime.chunks.create(said)
    runtime.metrics.uploads_created.inc("tus")
    if with_body and length != 0 and not upload.is_known:
        try:
            upload = await fill(request, upload.id, 0, claims=claims)
        except BaseException as error:
            # Nobody was told its address: nobody could go on with it.
            if said.once is None:
                await runtime.chunks.endings.abandon(upload.id, error)
            raise
    return _created(request, upload)


def _created(request: web.Request, upload: Upload) -> web.Response:
    headers = _shown(upload)
    headers[hdrs.LOCATION] = location(request, request.app[runtime_key], upload.id)
    return web.Response(status=201, headers=headers)


def _announced(
    request: web.Request, principal: Principal, *, length: int | None, concat: str
) -> Announced:
    raw, metadata = tus_metadata(request.headers)
    name, kind = _name_and_type(metadata)
    return Announced(
        owner=principal.owner,
        tenant=principal.tenant,
        client=client_of(request, principal),
        file_name=name,
        declared_type=kind,
        length=length,
        metadata=metadata,
        raw_metadata=raw,
        dialect=turns.TUS,
        is_part=concat == "partial",
        concat=concat,
        once=once_of(request, length, raw, concat),
    )


def _name_and_type(metadata: Mapping[str, str]) -> tuple[str, str]:
    name = uploads.clean_name(metadata.get("filename") or metadata.get("name"))
    said = metadata.get("filetype") or metadata.get("type")
    return name, uploads.declared_type(name, said)


def _announced_length(request: web.Request) -> int | None:
    """Return the length; None: it will be told later."""
    if DEFER not in request.headers:
        return needed_number_header(request.headers, "Upload-Length")
    values = request.headers.getall(DEFER)
    if values != ["1"] or "Upload-Length" in request.headers:
        accepted = "1, and then no Upload-Length"
        raise InvalidHeader(DEFER, ", ".join(values), accepted=accepted)
    return None


def _carries_chunk(request: web.Request, length: int | None) -> bool:
    """Tell whether a creation brings bytes along; refuse what could not end well."""
    # an empty body of unknown length may have ended already
    if not request.body_exists:
        return False
    coming = request.content_length
    if length is not None and coming is not None and coming > length:
        raise PastUploadLength(
            f"a body of {coming} bytes reaches beyond the length {length}"
        )
    if uploads.clean_type(request.headers.get(hdrs.CONTENT_TYPE)) == CHUNK_TYPE:
        return True
    if request.can_read_body:
        raise UnsupportedContentType(f"a body here must be {CHUNK_TYPE}")
    return False


async def _expect_nothing(request: web.Request, claims: Claims) -> None:
    """Refuse bytes for an empty upload, which is complete before they are read.

    And what is said to be their checksum, unless it is that of nothing.
    """
    rate = request.app[runtime_key].settings.body_min_rate
    if await BodyReader(request, min_rate=rate).read():
        raise PastUploadLength("the upload's length is 0 bytes")
    for said in claims.part():
        if uploads.CHECKSUMS[said.algorithm]().digest() != said.value:
            raise ChecksumMismatch


# ----- concatenation


def _concat(request: web.Request) -> str:
    values = request.headers.getall(CONCAT, [""])
    if len(values) > 1:
        raise InvalidHeader(CONCAT, ", ".join(values), accepted="one")
    return values[0]


async def _join(
    request: web.Request, principal: Principal, concat: str
) -> web.Response:
    """Create an upload of the bytes of others."""
    if request.can_read_body:
        raise PastUploadLength("an upload that is joined from others takes no body")
    for name in ("Upload-Length", DEFER):
        if name in request.headers:
            value = request.headers[name]
            raise InvalidHeader(name, value, accepted="none beside final")
    parts = _parts(concat)
    said = _announced(request, principal, length=None, concat=concat)
    runtime = request.app[runtime_key]
    upload = await runtime.joiner.create(said, parts)
    runtime.metrics.uploads_created.inc("tus")
    return _created(request, upload)


def _parts(concat: str) -> list[str]:
    """Return the ids of the parts; their addresses may be relative or absolute."""
    found = _FINAL.fullmatch(concat)
    addresses = found[1].split() if found else []
    if not 0 < len(addresses) <= MAX_PARTS:
        accepted = f"final; and 1 to {MAX_PARTS} addresses of partial uploads"
        raise InvalidHeader(CONCAT, concat, accepted=accepted)
    return [_part(address) for address in addresses]


def _part(address: str) -> str:
    try:
        found = urlsplit(address).path.rpartition("/")[2]
    except ValueError:
        # brackets around what is no address
        found = address
    if not uploads.is_id(found):
        raise PartNotUsable(f"{found[:60]!r} is no upload")
    return found


# ----- one upload


async def look(request: web.Request) -> web.Response:
    """Tell the offset (HEAD)."""
    require(request, UPLOAD)
    check_version(request)
    runtime = request.app[runtime_key]
    upload = await runtime.chunks.find(upload_id(request), at_length=True)
    if upload.is_joined:
        upload = await runtime.joiner.settle(upload.id)
    headers = _shown(upload)
    if upload.length is not None:
        headers["Upload-Length"] = str(upload.length)
    elif not upload.is_joined:
        headers[DEFER] = "1"
    if upload.raw_metadata:
        headers["Upload-Metadata"] = upload.raw_metadata
    if upload.concat:
        headers[CONCAT] = upload.concat
    return web.Response(headers=headers)


def _shown(upload: Upload) -> dict[str, str]:
    headers = headers_of(upload)
    if upload.is_joined and not upload.is_complete:
        # an upload that waits for its parts has no offset
        del headers["Upload-Offset"]
    return headers


async def append(request: web.Request) -> web.Response:
    """Append bytes at the offset (PATCH)."""
    require(request, UPLOAD)
    check_version(request)
    found = upload_id(request)
    if uploads.clean_type(request.headers.get(hdrs.CONTENT_TYPE)) != CHUNK_TYPE:
        raise UnsupportedContentType(f"Content-Type must be {CHUNK_TYPE}")
    refuse_encoding(request)
    offset = needed_number_header(request.headers, "Upload-Offset")
    total = number_header(request.headers, "Upload-Length")
    upload = await fill(request, found, offset, total=total, claims=checksum(request))
    return web.Response(status=204, headers=headers_of(upload))


async def terminate(request: web.Request) -> web.Response:
    """End an unfinished upload and give up its bytes (DELETE)."""
    require(request, UPLOAD)
    check_version(request)
    await request.app[runtime_key].chunks.terminate(upload_id(request))
    return web.Response(status=204)


def check_version(request: web.Request) -> None:
    """Return if the request speaks our version. Raise UnsupportedTusVersion."""
    if request.headers.getall(RESUMABLE, []) != [VERSION]:
        raise UnsupportedTusVersion


# ----- checksums


def checksum(request: web.Request) -> Claims:
    """Return what the request says its body's checksum is, or will be behind it.

    A Content-Digest says the same, and may stand beside Upload-Checksum.
    """
    digests = digests_of(request)
    values = request.headers.getall(CHECKSUM, [])
    if values:
        found = _checksum(", ".join(values))
        return Claims(part=lambda: (found, *digests.part()), is_certain=True)
    is_certain = announces(request, CHECKSUM)

    def part() -> tuple[Checksum, ...]:
        values = trailers(request).getall(CHECKSUM, [])
        if not values and not is_certain:
            return tuple(digests.part())
        found = _checksum(", ".join(values) if values else None)
        return (found, *digests.part())

    return Claims(part=part, is_certain=is_certain or digests.is_certain)


def _checksum(value: str | None) -> Checksum:
    algorithm, _space, encoded = (value or "").partition(" ")
    maker = uploads.CHECKSUMS.get(algorithm)
    try:
        wanted = base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error, and characters beyond ASCII
        wanted = b""
    if maker is None or len(wanted) != len(maker().digest()):
        names = ", ".join(uploads.CHECKSUMS)
        accepted = f"one of {names}, a space, and the checksum in base64"
        raise InvalidHeader(CHECKSUM, value, accepted=accepted)
    return Checksum(algorithm=algorithm, value=wanted)
