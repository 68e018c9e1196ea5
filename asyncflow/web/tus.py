"""The tus 1.0 protocol: https://tus.io/protocols/resumable-upload.

Core, creation, creation-with-upload, expiration, termination. Only headers are read
here; what happens to the bytes is `asyncflow.chunks`.
"""

from email.utils import formatdate
from typing import Final

from aiohttp import hdrs, web

from asyncflow import uploads
from asyncflow.chunks import Announced, Upload
from asyncflow.errors import (
    InvalidHeader,
    PastUploadLength,
    UnsupportedContentType,
    UnsupportedTusVersion,
    UploadNotFound,
)
from asyncflow.runtime import Runtime
from asyncflow.web.auth import UPLOAD, require
from asyncflow.web.bodies import BodyReader, continue_later
from asyncflow.web.keys import runtime_key
from asyncflow.web.parsing import (
    needed_number_header,
    refuse_encoding,
    tus_metadata,
)

PRECONDITION_FAILED: Final = 412
VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,expiration,termination"
CHUNK_TYPE: Final = "application/offset+octet-stream"
JOB_ID: Final = "Asyncflow-Job-Id"


def add_routes(app: web.Application) -> None:
    """Add the upload resource to *app*, with and without a slash at its end."""
    for path in ("/files", "/files/"):
        app.router.add_route(hdrs.METH_OPTIONS, path, discover)
        app.router.add_post(path, create, expect_handler=continue_later)
    one = "/files/{id}"
    app.router.add_route(hdrs.METH_OPTIONS, one, discover)
    app.router.add_head(one, look)
    app.router.add_patch(one, append, expect_handler=continue_later)
    app.router.add_delete(one, terminate)
    app.on_response_prepare.append(_sign)


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put the headers that tus wants into every answer, refusals included."""
    resource = request.match_info.route.resource
    if resource is not None and resource.canonical.startswith("/files"):
        response.headers["Tus-Resumable"] = VERSION
        if response.status == PRECONDITION_FAILED:
            response.headers["Tus-Version"] = VERSION


async def discover(request: web.Request) -> web.Response:
    """Say what this server can do (OPTIONS)."""
    rules = request.app[runtime_key].admission.rules
    return web.Response(
        headers={
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(rules.max_bytes),
            hdrs.CACHE_CONTROL: "no-store",
        }
    )


async def create(request: web.Request) -> web.Response:
    """Create an upload, with its first bytes if they come along (POST)."""
    principal = require(request, UPLOAD)
    runtime = request.app[runtime_key]
    _check_version(request)
    refuse_encoding(request)
    length = _announced_length(request)
    with_body = _carries_chunk(request, length)
    raw, metadata = tus_metadata(request.headers)
    name = uploads.clean_name(metadata.get("filename") or metadata.get("name"))
    said = metadata.get("filetype") or metadata.get("type")
    upload = await runtime.chunks.create(
        Announced(
            owner=principal.owner,
            tenant=principal.tenant,
            file_name=name,
            declared_type=uploads.declared_type(name, said),
            length=length,
            metadata=metadata,
            raw_metadata=raw,
        )
    )
    runtime.metrics.uploads_created.inc("tus")
    if with_body and length:
        try:
            upload = await _fill(request, runtime, upload.id, 0)
        except BaseException as error:
            # Nobody was told its address: nobody could go on with it.
            await runtime.chunks.abandon(upload.id, error)
            raise
    headers = _headers(upload)
    headers[hdrs.LOCATION] = _location(request, runtime, upload.id)
    return web.Response(status=201, headers=headers)


def _announced_length(request: web.Request) -> int:
    if "Upload-Defer-Length" in request.headers:
        accepted = "nothing: announce the length with Upload-Length"
        value = request.headers["Upload-Defer-Length"]
        raise InvalidHeader("Upload-Defer-Length", value, accepted=accepted)
    return needed_number_header(request.headers, "Upload-Length")


def _carries_chunk(request: web.Request, length: int) -> bool:
    """Tell whether a creation brings bytes along; refuse what could not end well."""
    if not request.can_read_body:
        return False
    if request.content_length is not None and request.content_length > length:
        raise PastUploadLength(
            f"a body of {request.content_length} bytes reaches beyond the length "
            f"{length}"
        )
    if uploads.clean_type(request.headers.get(hdrs.CONTENT_TYPE)) != CHUNK_TYPE:
        raise UnsupportedContentType(f"a body here must be {CHUNK_TYPE}")
    return True


async def look(request: web.Request) -> web.Response:
    """Tell the offset (HEAD)."""
    require(request, UPLOAD)
    _check_version(request)
    upload = await request.app[runtime_key].chunks.find(_id(request))
    headers = _headers(upload)
    if upload.length is not None:
        headers["Upload-Length"] = str(upload.length)
    if upload.raw_metadata:
        headers["Upload-Metadata"] = upload.raw_metadata
    return web.Response(headers=headers)


async def append(request: web.Request) -> web.Response:
    """Append bytes at the offset (PATCH)."""
    require(request, UPLOAD)
    _check_version(request)
    upload_id = _id(request)
    if uploads.clean_type(request.headers.get(hdrs.CONTENT_TYPE)) != CHUNK_TYPE:
        raise UnsupportedContentType(f"Content-Type must be {CHUNK_TYPE}")
    refuse_encoding(request)
    offset = needed_number_header(request.headers, "Upload-Offset")
    runtime = request.app[runtime_key]
    upload = await _fill(request, runtime, upload_id, offset)
    return web.Response(status=204, headers=_headers(upload))


async def terminate(request: web.Request) -> web.Response:
    """End an unfinished upload and give up its bytes (DELETE)."""
    require(request, UPLOAD)
    _check_version(request)
    await request.app[runtime_key].chunks.terminate(_id(request))
    return web.Response(status=204)


async def _fill(
    request: web.Request, runtime: Runtime, upload_id: str, offset: int
) -> Upload:
    body = BodyReader(request, min_rate=runtime.settings.body_min_rate)
    try:
        return await runtime.chunks.append(
            upload_id, offset, body, length=body_length(request)
        )
    finally:
        runtime.metrics.bytes_received.inc(by=body.received)


def body_length(request: web.Request) -> int | None:
    """Return how many bytes the body announces; 0: there is none; None: chunked."""
    if not request.can_read_body:
        return 0
    return request.content_length


def _id(request: web.Request) -> str:
    upload_id = request.match_info["id"]
    if not uploads.is_id(upload_id):
        raise UploadNotFound
    return upload_id


def _check_version(request: web.Request) -> None:
    if request.headers.getall("Tus-Resumable", []) != [VERSION]:
        raise UnsupportedTusVersion


def _headers(upload: Upload) -> dict[str, str]:
    headers = {
        "Upload-Offset": str(upload.offset),
        JOB_ID: upload.id,
        hdrs.CACHE_CONTROL: "no-store",
    }
    if upload.expires is not None:
        headers["Upload-Expires"] = formatdate(upload.expires / 1000, usegmt=True)
    return headers


def _location(request: web.Request, runtime: Runtime, upload_id: str) -> str:
    """Return the upload's address: relative, so that no proxy can make it wrong."""
    public = runtime.settings.public_url
    if public is not None:
        return f"{public.rstrip('/')}/files/{upload_id}"
    return upload_id if request.path.endswith("/") else f"files/{upload_id}"
