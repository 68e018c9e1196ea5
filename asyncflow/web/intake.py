"""What every upload dialect says to the engine in the same way.

Who is counted for an upload, which request repeats an earlier one, where an upload is
found, how a body gets into it.
"""

import hashlib
import re
from dataclasses import replace
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.db.records import Once
from asyncflow.engine import PIPELINE
from asyncflow.errors import InvalidHeader, UploadNotFound
from asyncflow.jobs import lane_of
from asyncflow.runtime import Runtime
from asyncflow.turns import NO_CLAIMS, Claims, Ends, Upload
from asyncflow.uploads import Checksum
from asyncflow.web import fields
from asyncflow.web.auth import Principal
from asyncflow.web.bodies import BodyReader
from asyncflow.web.keys import fast_key, runtime_key
from asyncflow.web.proxies import peer_of
from asyncflow.web.trailers import trailers

JOB_ID: Final = "Asyncflow-Job-Id"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
#: says DigestMismatch of one body
WRONG_BODY: Final = "the body is not what Content-Digest says"

_KEY = re.compile(r'"[ !#-\[\]-~]{1,255}"|[!#-~]{1,255}')


def client_of(request: web.Request, principal: Principal) -> str:
    """Return who is counted for an upload: its owner, or an address without a name."""
    if principal.is_anonymous:
        return f"peer {peer_of(request)}"
    return f"owner {principal.tenant!r} {principal.owner!r}"


def once_of(request: web.Request, *facts: object) -> Once | None:
    """Return the Idempotency-Key with a fingerprint of the request; None: no key.

    *facts* are what makes the request this one beside its method and address: never
    its body, which may be large and may not have come.
    """
    values = request.headers.getall(IDEMPOTENCY_KEY, [])
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        accepted = "one string of 1 to 255 visible ASCII characters"
        raise InvalidHeader(IDEMPOTENCY_KEY, ", ".join(values), accepted=accepted)
    said = repr((request.method, request.path.rstrip("/"), facts))
    fingerprint = hashlib.sha256(said.encode()).hexdigest()
    return Once(key=values[0].strip('"'), fingerprint=fingerprint)


def chosen(pipeline: str | None) -> dict[str, str]:
    """Return the metadata of an upload that chooses *pipeline*; empty: it does not."""
    return {PIPELINE: pipeline} if pipeline else {}


def body_length(request: web.Request) -> int | None:
    """Return how many bytes the body announces; 0: there is none; None: chunked."""
    if not request.can_read_body:
        return 0
    return request.content_length


def digests_of(request: web.Request) -> Claims:
    """Return the digests that come with a body, before or behind it (RFC 9530)."""
    told = fields.digests(request.headers, "Content-Digest")

    def part() -> tuple[Checksum, ...]:
        said = told or fields.digests(trailers(request), "Content-Digest")
        # the best one is enough
        return said[:1]

    def whole() -> tuple[Checksum, ...]:
        said = fields.digests(request.headers, "Repr-Digest")
        return said or fields.digests(trailers(request), "Repr-Digest")

    return Claims(part=part, is_certain=bool(told), whole=whole)


def digest_of_file(request: web.Request) -> Checksum | None:
    """Return the digest that is said of the whole file before its bytes come."""
    return next(iter(fields.digests(request.headers, "Repr-Digest")), None)


def refuse_range(request: web.Request) -> None:
    """Refuse a part of a file where a whole one is taken (RFC 9110 section 14.5)."""
    if hdrs.CONTENT_RANGE not in request.headers:
        return
    raise InvalidHeader(
        hdrs.CONTENT_RANGE,
        request.headers[hdrs.CONTENT_RANGE],
        accepted="none, for a file comes whole here (curl -C cannot work); what is to "
        "go on after a break begins with POST /files/ and goes on with PATCH",
    )


def key_of_file(once: Once, n: int) -> Once:
    """Return the key of a form's file: it has one for all, but each is an upload."""
    return replace(once, key=f"{once.key}#{n}")


async def admit_form(request: web.Request, principal: Principal) -> None:
    """Return if a form of new files may be read: they cannot be larger than itself.

    Raises:
        ClientError, ServerBusy: before a byte of it is read, as `Admission.check_form`
            says.
    """
    once = once_of(request)
    if once is not None:
        once = key_of_file(once, 0)
    is_repeat = await _is_repeat(request, principal, once)
    length, tenant = body_length(request), principal.tenant
    admission = request.app[runtime_key].admission
    await admission.check_form(length, tenant=tenant, is_repeat=is_repeat)
    if not is_repeat:
        await check_new(request, principal)


async def check_new(request: web.Request, principal: Principal) -> None:
    """Return if an upload may begin now, as far as is known before its body.

    Raises:
        ShuttingDown, BacklogFull, TooManyUploads: not now.
    """
    client = client_of(request, principal)
    lane = lane_of(principal.tenant, principal.owner, client)
    await request.app[runtime_key].admission.check_new(client, lane)


async def admit_chunk(request: web.Request, principal: Principal) -> bool:
    """Return if a chunk may be read; tell whether it repeats what began its file.

    Whether it begins one, its body says.

    Raises:
        ClientError, ServerBusy: before a byte of it is read, as `Admission.check_form`
            says.
    """
    is_repeat = await _is_repeat(request, principal, once_of(request))
    length, tenant = body_length(request), principal.tenant
    if length is not None and request.content_type == "application/json":
        # its bytes are base64
        length = length * 3 // 4
    admission = request.app[runtime_key].admission
    await admission.check_form(
        length, tenant=tenant, is_repeat=is_repeat, is_chunk=True
    )
    return is_repeat


async def _is_repeat(
    request: web.Request, principal: Principal, once: Once | None
) -> bool:
    if once is None:
        return False
    creation = request.app[runtime_key].chunks.creation
    return await creation.knows(principal.owner, principal.tenant, once.key)


def form_body(request: web.Request) -> BodyReader:
    """Return what reads a form, which is no larger than a file may be."""
    runtime = request.app[runtime_key]
    return BodyReader(
        request,
        min_rate=runtime.settings.body_min_rate,
        max_form_bytes=runtime.admission.rules.max_bytes,
    )


async def fill(
    request: web.Request,
    upload_id: str,
    offset: int,
    *,
    ends: Ends = Ends.AT_LENGTH,
    total: int | None = None,
    claims: Claims = NO_CLAIMS,
) -> Upload:
    """Append the request's body to an upload, as `Chunks.append` does."""
    runtime = request.app[runtime_key]
    fast = request.app[fast_key]
    body = BodyReader(request, min_rate=runtime.settings.body_min_rate, fast=fast)
    try:
        return await runtime.chunks.append(
            upload_id,
            offset,
            body,
            length=body_length(request),
            ends=ends,
            total=total,
            claims=claims,
        )
    finally:
        body.close()
        runtime.metrics.bytes_received.inc(by=body.received)


def upload_id(request: web.Request) -> str:
    """Return the id in the address. Raise UploadNotFound if it cannot be one."""
    found = request.match_info["id"]
    if not uploads.is_id(found):
        raise UploadNotFound
    return found


def headers_of(upload: Upload) -> dict[str, str]:
    """Return what every dialect tells of an upload."""
    headers = {
        "Upload-Offset": str(upload.offset),
        hdrs.CACHE_CONTROL: "no-store",
    }
    if not upload.is_part:
        headers[JOB_ID] = upload.id
    if upload.expires is not None:
        headers["Upload-Expires"] = _date(upload.expires // 1000)
    return headers


@lru_cache(maxsize=64)
def _date(seconds: int) -> str:
    """Return a moment as HTTP has it; what is created together expires together."""
    return formatdate(seconds, usegmt=True)


def location(request: web.Request, runtime: Runtime, found: str) -> str:
    """Return the upload's address: relative, so that no proxy can make it wrong."""
    public = runtime.settings.public_url
    if public is not None:
        return f"{public.rstrip('/')}/files/{found}"
    asked = request.rel_url.raw_path.removeprefix(runtime.url_prefix)
    if asked == "/files/":
        return found
    return "../" * (asked.count("/") - 1) + f"files/{found}"
