"""Errors as HTTP: one table of statuses, and one shape for every refusal.

Rules
-----
- A refusal is RFC 9457 `application/problem+json` with `code` and `requestId`.
- `STATUS` is the only place that maps an error class to a status; a subclass that
  somebody else wrote takes the status of its nearest ancestor in the table.
- What nobody raised on purpose is 500 `internal`: the log has it, the answer does not.
- A client that went away is no error.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from asyncflow import errors
from asyncflow.errors import AsyncflowError, ServerBusy
from asyncflow.processes import WANTS
from asyncflow.web.requestids import request_id_key

PROBLEM: Final = "application/problem+json"
#: what we call ourselves; versions are nobody's business before they are known
SERVER: Final = "asyncflow"

#: nobody reads this answer: the client has gone (nginx's number, for metrics and logs)
CLIENT_CLOSED: Final = 499

#: error class -> HTTP status
STATUS: Mapping[type[AsyncflowError], int] = {
    AsyncflowError: 500,
    errors.ClientError: 400,
    errors.InvalidHeader: 400,
    errors.InvalidParameter: 400,
    errors.InvalidMultipart: 400,
    errors.MissingFile: 400,
    errors.MissingBody: 400,
    errors.TruncatedBody: 400,
    errors.MalformedRequest: 400,
    errors.LengthMismatch: 400,
    errors.DigestMismatch: 400,
    errors.DigestConflict: 400,
    errors.PartNotUsable: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.ForeignOrigin: 403,
    # the tus specification wants 403 for a PATCH on what takes no more bytes
    errors.UploadComplete: 403,
    errors.FinalUpload: 403,
    errors.NotFound: 404,
    errors.UploadNotFound: 404,
    errors.JobNotFound: 404,
    errors.FileNotAvailable: 404,
    errors.MethodNotAllowed: 405,
    errors.SlowBody: 408,
    errors.SlowHead: 408,
    errors.OffsetMismatch: 409,
    # what clients take for final: on 409 two of them would stop each other for ever
    errors.UploadPreempted: 400,
    errors.JobNotRetryable: 409,
    errors.StepNotFound: 404,
    errors.StepNotRetryable: 409,
    errors.StepNotOpen: 409,
    errors.UnknownConsumer: 404,
    errors.UnknownTask: 422,
    errors.UnknownPipeline: 422,
    errors.InvalidEventType: 422,
    errors.ChunkConflict: 409,
    errors.UploadGone: 410,
    errors.UnsupportedTusVersion: 412,
    errors.PreconditionFailed: 412,
    errors.UploadTooLarge: 413,
    errors.PastUploadLength: 413,
    errors.BodyTooLarge: 413,
    errors.UnsupportedContentType: 415,
    errors.UnsupportedContentEncoding: 415,
    errors.TypeNotAllowed: 415,
    errors.RangeNotSatisfiable: 416,
    errors.MisdirectedHost: 421,
    errors.TypeMismatch: 422,
    errors.KeyReused: 422,
    errors.TooManyUploads: 429,
    errors.UpgradeRequired: 426,
    errors.HeadTooLarge: 431,
    # the tus specification's own
    errors.ChecksumMismatch: 460,
    errors.UnsupportedTransferCoding: 501,
    errors.UnsupportedHttpVersion: 505,
    errors.TooManyConnections: 503,
    errors.ServerBusy: 503,
    errors.BacklogFull: 503,
    errors.ShuttingDown: 503,
    errors.UploadBusy: 503,
    errors.DatabaseUnavailable: 503,
    errors.OutcomeUnknown: 503,
    errors.DiskFull: 507,
    errors.QuotaExceeded: 507,
    errors.StoreUnavailable: 503,
    errors.StoreError: 500,
    errors.BlobExists: 500,
    # the file was deleted between the row that names it and the store
    errors.BlobNotFound: 404,
}

#: problem types that IANA has registered, or the IETF draft asks it to
_IANA: Final = "https://iana.org/assignments/http-problem-types#"
TYPES: Mapping[type[AsyncflowError], tuple[str, str]] = {
    errors.OffsetMismatch: (
        f"{_IANA}mismatching-upload-offset",
        "Mismatching Upload Offset",
    ),
    errors.LengthMismatch: (
        f"{_IANA}inconsistent-upload-length",
        "Inconsistent Upload Length",
    ),
}

#: what `http.HTTPStatus` does not know
_PHRASES: Mapping[int, str] = {460: "Checksum Mismatch"}

#: classes (with all below them) that end before or beside HTTP and never become answers
NOT_HTTP: Final = (errors.StartError, errors.BackupError, errors.ProcessorError)

#: what aiohttp itself refuses, by status; any other keeps its own reason phrase
_OF_AIOHTTP: Mapping[int, type[AsyncflowError]] = {
    400: errors.MalformedRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
}

log = structlog.stdlib.get_logger(__name__)


def status_of(error: type[AsyncflowError]) -> int:
    """Return the HTTP status of an error class."""
    return next(STATUS[kind] for kind in error.__mro__ if kind in STATUS)


def headers_of(error: AsyncflowError) -> dict[str, str]:
    """Return the headers that HTTP wants beside this error."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after_s)))
    match error:
        case errors.Unauthorized():
            headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="asyncflow"'
        case errors.OffsetMismatch(expected=expected):
            headers["Upload-Offset"] = str(expected)
            # "?1" would mean that the answer comes from what the file was sent to
            headers["Upload-Complete"] = "?0"
        case errors.UpgradeRequired():
            headers[hdrs.UPGRADE] = "websocket"
        case errors.RangeNotSatisfiable(size=size):
            headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
        case _:
            pass
    return headers


def document(
    *,
    status: int,
    code: str,
    detail: str,
    request_id: str | None,
    extra: Mapping[str, object] | None = None,
    kind: tuple[str, str] | None = None,
) -> bytes:
    """Return the JSON of a problem; *extra* cannot replace the members of RFC 9457.

    *kind* is its registered type and title; without one `type` is `about:blank` and
    `title` the status's phrase (RFC 9457, 4.2.1). `code` is what programs compare.
    """
    name, title = kind or ("about:blank", _phrase(status))
    members: dict[str, object] = {
        **(extra or {}),
        "type": name,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if request_id is not None:
        members["requestId"] = request_id
    return json.dumps(members, ensure_ascii=False, default=str).encode(errors="replace")


def problem(
    request: web.BaseRequest,
    error: AsyncflowError,
    *,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return the answer that tells *error*; *headers* come on top of its own."""
    status = status_of(type(error))
    return web.Response(
        status=status,
        content_type=PROBLEM,
        headers={**headers_of(error), **(headers or {})},
        body=document(
            status=status,
            code=error.code,
            detail=error.detail,
            request_id=request.get(request_id_key),
            extra=error.extra(),
            kind=TYPES.get(type(error)),
        ),
    )


def problems() -> Middleware:
    """Return the middleware that gives each error its answer.

    It belongs outside of every middleware that may raise.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as refusal:
            return _of_aiohttp(request, refusal)
        except AsyncflowError as error:
            answer = _expected(request, error)
            forget_frames(error)
            return answer
        except ConnectionError as error:
            if _gone(request):
                forget_frames(error)
                return web.Response(status=CLIENT_CLOSED)
            return _unexpected(request, error)
        except OSError as error:
            if error.errno in WANTS:
                return _expected(request, ServerBusy(error.strerror))
            return _unexpected(request, error)
        except Exception as error:  # noqa: BLE001 -- the last one that can answer
            return _unexpected(request, error)

    return middleware


def forget_frames(error: BaseException) -> None:
    """Let go of the calls that *error* has come through, and of what they hold.

    A body keeps why it broke off, the error the calls, and they the body with all that
    had come of it: in such a circle it stays until the garbage collector comes by.
    """
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            errors += [one.__cause__, one.__context__]


def _expected(request: web.Request, error: AsyncflowError) -> web.Response:
    if error.fault == "server" and status_of(type(error)) == HTTPStatus(500):
        return _unexpected(request, error)
    if begun(request):
        return _cut(request)
    return problem(request, error)


def _unexpected(request: web.Request, error: Exception) -> web.Response:
    log.error("http.unexpected", method=request.method, exc_info=error)
    if begun(request):
        return _cut(request)
    code = error.code if isinstance(error, AsyncflowError) else AsyncflowError.code
    body = document(
        status=500,
        code=code,
        detail="Something went wrong here; the log of the server has the request id.",
        request_id=request.get(request_id_key),
    )
    return web.Response(status=500, content_type=PROBLEM, body=body)


def _of_aiohttp(request: web.Request, refusal: web.HTTPException) -> web.StreamResponse:
    if refusal.status < HTTPStatus.BAD_REQUEST:
        raise refusal
    kind = _OF_AIOHTTP.get(refusal.status)
    headers: dict[str, str] = {}
    if hdrs.ALLOW in refusal.headers:
        headers[hdrs.ALLOW] = refusal.headers[hdrs.ALLOW]
    if kind is not None:
        return problem(request, kind(), headers=headers)
    phrase = _phrase(refusal.status)
    body = document(
        status=refusal.status,
        code=phrase.lower().replace(" ", "_").replace("-", "_"),
        detail=f"{phrase}.",
        request_id=request.get(request_id_key),
    )
    return web.Response(
        status=refusal.status, content_type=PROBLEM, headers=headers, body=body
    )


def _phrase(status: int) -> str:
    if status in _PHRASES:
        return _PHRASES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def begun(request: web.BaseRequest) -> bool:
    """Tell whether bytes of an answer have left: then no other answer can follow."""
    return request.writer.output_size > 0


def _cut(request: web.BaseRequest) -> web.Response:
    """Break the connection, so that half an answer cannot pass for a whole one."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=CLIENT_CLOSED)
