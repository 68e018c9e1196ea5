"""Every operation of the server, declared once; a test compares it with the routes."""

from collections.abc import Mapping
from typing import Final

from asyncflow import errors
from asyncflow.jobs import JobState
from asyncflow.views import JobView
from asyncflow.web.adminoperations import OPERATOR
from asyncflow.web.chunked import ChunkAnswer
from asyncflow.web.chunkfields import MAX_CHUNKS
from asyncflow.web.jobs import MAX_PAGE, CancelAnswer, JobsPage, RetryAnswer
from asyncflow.web.multipart import UploadAnswer, UploadAnswers
from asyncflow.web.openapi import BYTES, STREAM, Answer, Operation, Parameter
from asyncflow.web.tasks import (
    Announcement,
    EventAnswer,
    TaskAnswer,
    TaskOrder,
    TaskView,
)

CHUNK_TYPE: Final = "application/offset+octet-stream"
PARTIAL_TYPE: Final = "application/partial-upload"
OCTETS: Final = "application/octet-stream"

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
_ID: Final = Parameter(
    name="id", place="path", says="the id of a job", shape={**_TEXT, "format": "uuid"}
)
_NAME: Final = Parameter(
    name="name",
    place="path",
    says="the name of a file",
    shape={**_TEXT, "minLength": 1},
)


def _header(name: str, says: str, shape: object = None) -> Parameter:
    kind = shape if isinstance(shape, dict) else _TEXT
    return Parameter(name=name, place="header", says=says, shape=kind)


def _query(name: str, says: str, shape: dict[str, object]) -> Parameter:
    return Parameter(name=name, place="query", says=says, shape=shape)


_TUS: Final = _header(
    "Tus-Resumable", "the protocol's version, for tus", {"const": "1.0.0"}
)
_INTEROP: Final = _header(
    "Upload-Draft-Interop-Version", "the draft's number, for resumable uploads"
)
_ONCE: Final = _header(
    "Idempotency-Key",
    "a repeated request with it is one request",
    {**_TEXT, "pattern": "^[!#-~]{1,255}$"},
)
_DIGESTS: Final = (
    _header("Content-Digest", "the digest of this body (RFC 9530)"),
    _header("Repr-Digest", "the digest of the whole file (RFC 9530)"),
    _header("Want-Repr-Digest", "which digest of the whole file to answer with"),
)
_CHECKSUM: Final = _header("Upload-Checksum", "tus: an algorithm and a base64 value")
_LENGTH: Final = _header("Upload-Length", "bytes of the whole file", _COUNT)
_COMPLETE: Final = _header(
    "Upload-Complete",
    "resumable uploads: ?1 if this is all of it, ?0 if not; anything else says nothing",
)
_DISPOSITION: Final = _header(
    "Content-Disposition", "names the file, where nothing else does"
)
_CREATING: Final = (
    _TUS,
    _INTEROP,
    _LENGTH,
    _header(
        "Upload-Metadata",
        "tus: pairs of a key (filename, filetype, pipeline) and a base64 value",
    ),
    _header("Upload-Defer-Length", "tus: the length comes later", {"const": "1"}),
    _header("Upload-Concat", "tus: partial, or final;/files/A /files/B"),
    _CHECKSUM,
    _COMPLETE,
    _DISPOSITION,
    *_DIGESTS,
    _ONCE,
)
_CHOICE: Final = _query(
    "pipeline", "the pipeline that the file goes through", {**_TEXT}
)
_IN_ONE_REQUEST: Final = (*_DIGESTS, _LENGTH, _COMPLETE, _INTEROP, _ONCE)
_NOW_IN_WAY: Final = (errors.ServerBusy, errors.DiskFull, errors.TooManyUploads)
_OF_BODIES: Final = (
    errors.InvalidHeader,
    errors.LengthMismatch,
    errors.DigestMismatch,
    errors.SlowBody,
    errors.UploadTooLarge,
    errors.PastUploadLength,
    errors.UnsupportedContentType,
    errors.UnsupportedContentEncoding,
    errors.UnsupportedTransferCoding,
    errors.TypeNotAllowed,
    errors.TypeMismatch,
    errors.OffsetMismatch,
    errors.UploadComplete,
    errors.UploadNotFound,
    errors.UploadGone,
    errors.UnsupportedTusVersion,
    errors.ChecksumMismatch,
    *_NOW_IN_WAY,
)
#: of an upload that is begun and ended by one request
_OF_ONE_REQUEST: Final = (
    errors.InvalidHeader,
    errors.TruncatedBody,
    errors.LengthMismatch,
    errors.DigestMismatch,
    errors.SlowBody,
    # a request with the same Idempotency-Key came before this one had ended
    errors.UploadPreempted,
    errors.UploadGone,
    errors.UploadTooLarge,
    errors.UnsupportedContentType,
    errors.UnsupportedContentEncoding,
    errors.UnsupportedTransferCoding,
    errors.TypeNotAllowed,
    errors.TypeMismatch,
    errors.UnknownPipeline,
    errors.KeyReused,
    *_NOW_IN_WAY,
)
_OF_UPLOADS: Final = (
    errors.InvalidHeader,
    errors.UploadNotFound,
    errors.UploadGone,
    errors.UploadComplete,
    errors.UnsupportedTusVersion,
    errors.UploadBusy,
)
_CREATED: Final = (
    Answer(
        status=201,
        says="the upload exists",
        headers=("Location", "Upload-Offset", "Asyncflow-Job-Id"),
    ),
    Answer(status=200, says="resumable uploads: the upload is complete"),
)
_APPENDED: Final = (
    Answer(status=204, says="the bytes are kept", headers=("Upload-Offset",)),
    Answer(status=200, says="resumable uploads: the upload is complete"),
    Answer(status=201, says="resumable uploads: the bytes are kept"),
)
_DISCOVERED: Final = (
    Answer(status=200, says="what the server can do", headers=("Tus-Version",)),
    Answer(status=204, says="what the server can do, or what a page may ask"),
)
_BEGUN: Final = Answer(
    status=201,
    says="the request says Upload-Complete: a resumable upload has begun",
    headers=("Location", "Upload-Offset", "Asyncflow-Job-Id"),
)
_ACCEPTED: Final = Answer(
    status=202,
    says="the bytes and the job are on stable storage",
    bodies=(UploadAnswer, UploadAnswers),
)
_OF_JOBS: Final = (errors.JobNotFound,)
_OF_SUBMISSIONS: Final = (
    errors.InvalidParameter,
    errors.InvalidHeader,
    errors.BodyTooLarge,
    errors.SlowBody,
    errors.KeyReused,
    errors.UnsupportedContentEncoding,
    errors.ServerBusy,
)
_OF_FILES: Final = (errors.JobNotFound, errors.FileNotAvailable)


def _creation(method: str) -> Operation:
    return Operation(
        route=f"{method} /files/",
        tag="resumable uploads",
        summary="Create an upload, with its first bytes if they come along",
        parameters=_CREATING,
        takes={CHUNK_TYPE: BYTES, PARTIAL_TYPE: BYTES, OCTETS: BYTES},
        answers=_CREATED,
        refusals=(
            *_OF_BODIES,
            errors.PartNotUsable,
            errors.KeyReused,
            errors.MethodNotAllowed,
        ),
    )


def _looking(method: str) -> Operation:
    return Operation(
        route=f"{method} /files/{{id}}",
        tag="resumable uploads",
        summary="Tell the offset of an upload",
        parameters=(_ID, _TUS, _INTEROP),
        answers=(
            Answer(status=200, says="how far it is", headers=("Upload-Offset",)),
            Answer(status=204, says="how far it is", headers=("Upload-Offset",)),
        ),
        refusals=_OF_UPLOADS,
    )


def _appending(method: str, summary: str) -> Operation:
    return Operation(
        route=f"{method} /files/{{id}}",
        tag="resumable uploads",
        summary=summary,
        parameters=(
            _ID,
            _TUS,
            _INTEROP,
            _header("Upload-Offset", "where the bytes begin", _COUNT),
            _LENGTH,
            _CHECKSUM,
            _COMPLETE,
            *_DIGESTS,
        ),
        takes={CHUNK_TYPE: BYTES, PARTIAL_TYPE: BYTES},
        answers=_APPENDED,
        refusals=(
            *_OF_BODIES,
            errors.DigestConflict,
            errors.FinalUpload,
            errors.MethodNotAllowed,
        ),
    )


def _discovery(path: str, *parameters: Parameter) -> Operation:
    return Operation(
        route=f"OPTIONS {path}",
        tag="resumable uploads",
        summary="Tell what the server can do",
        parameters=parameters,
        answers=_DISCOVERED,
        refusals=(errors.UploadNotFound,) if parameters else (),
    )


RESUMABLE: Final = (
    _discovery("/files/"),
    _discovery("/files/{id}", _ID),
    *map(_creation, ("POST", "PUT", "PATCH")),
    *map(_looking, ("HEAD", "GET")),
    _appending("PATCH", "Append bytes at the offset"),
    _appending("POST", "Do what X-HTTP-Method-Override names"),
    Operation(
        route="DELETE /files/{id}",
        tag="resumable uploads",
        summary="End an unfinished upload and give up its bytes",
        parameters=(_ID, _TUS, _INTEROP),
        answers=(Answer(status=204, says="it is ended"),),
        refusals=_OF_UPLOADS,
    ),
)


def _limits(path: str, *parameters: Parameter) -> Operation:
    limit = Answer(status=200, says="what is taken", headers=("Upload-Limit",))
    return Operation(
        route=f"OPTIONS {path}",
        tag="uploads in one request",
        summary="Tell clients of the IETF draft what the server takes",
        parameters=parameters,
        answers=(limit, Answer(status=204, says="what a page may ask")),
    )


WHOLE: Final = (
    _limits("/upload"),
    _limits("/upload/{name}", _NAME),
    Operation(
        route="POST /upload",
        tag="uploads in one request",
        summary="Upload files as a form, or one as the body",
        parameters=(
            _query("name", "the file's name, for a body", {**_TEXT}),
            _CHOICE,
            _DISPOSITION,
            *_IN_ONE_REQUEST,
        ),
        takes={
            "multipart/form-data": {
                "type": "object",
                "properties": {"pipeline": _TEXT, "file": dict(BYTES)},
                "required": ["file"],
            },
            OCTETS: BYTES,
        },
        answers=(_ACCEPTED, _BEGUN),
        refusals=(
            errors.InvalidMultipart,
            errors.MissingFile,
            errors.MissingBody,
            *_OF_ONE_REQUEST,
        ),
    ),
    Operation(
        route="PUT /upload/{name}",
        tag="uploads in one request",
        summary="Upload the body as a file of this name",
        parameters=(_NAME, _CHOICE, *_IN_ONE_REQUEST),
        takes={OCTETS: BYTES},
        answers=(_ACCEPTED, _BEGUN),
        refusals=(errors.MissingBody, errors.NotFound, *_OF_ONE_REQUEST),
    ),
)

_CHUNK_FIELDS: Final = {
    "chunkIndex": {"type": "integer", "minimum": 0, "maximum": MAX_CHUNKS - 1},
    "totalChunks": {"type": "integer", "minimum": 1, "maximum": MAX_CHUNKS},
    "jobId": {**_TEXT, "format": "uuid"},
    "fileName": _TEXT,
    "fileType": _TEXT,
    "sha256": {**_TEXT, "pattern": "^[0-9a-fA-F]{64}$"},
    "pipeline": _TEXT,
}


def _chunk(shape: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {**_CHUNK_FIELDS, "chunk": shape},
        "required": ["chunkIndex", "totalChunks", "chunk"],
    }


CHUNKED: Final = (
    Operation(
        route="POST /upload/chunked",
        tag="uploads in chunks",
        summary="Upload one chunk of a file, in any order",
        parameters=(_ONCE,),
        takes={
            "multipart/form-data": _chunk(BYTES),
            "application/json": {
                **_chunk({**_TEXT, "contentEncoding": "base64"}),
                "additionalProperties": False,
            },
        },
        answers=(
            Answer(status=200, says="the chunk is kept", bodies=(ChunkAnswer,)),
            Answer(status=202, says="the file is complete", bodies=(ChunkAnswer,)),
        ),
        refusals=(
            errors.InvalidParameter,
            errors.MissingFile,
            errors.PartNotUsable,
            errors.BodyTooLarge,
            errors.ChunkConflict,
            errors.KeyReused,
            *_OF_BODIES,
        ),
    ),
)


def _status(path: str) -> Operation:
    return Operation(
        route=f"GET {path}",
        tag="jobs",
        summary="Tell everything about a job",
        parameters=(_ID, _header("If-None-Match", "the ETag of a known state")),
        answers=(
            Answer(status=200, says="the job", bodies=(JobView,), headers=("ETag",)),
            Answer(status=304, says="nothing changed"),
        ),
        refusals=_OF_JOBS,
    )


JOBS: Final = (
    _status("/status/{id}"),
    _status("/jobs/{id}"),
    Operation(
        route="GET /jobs",
        tag="jobs",
        summary="List jobs, newest first",
        parameters=(
            _query(
                "state", "only jobs in this state", {"enum": [*JobState.__members__]}
            ),
            _query("search", "a part of the name or the id", {**_TEXT}),
            _query(
                "limit",
                "jobs on a page",
                {"type": "integer", "minimum": 1, "maximum": MAX_PAGE},
            ),
            _query("after", "`next` of the page before", dict(_COUNT)),
        ),
        answers=(Answer(status=200, says="a page of jobs", bodies=(JobsPage,)),),
        refusals=(errors.InvalidParameter,),
        needs_admin=True,
    ),
    Operation(
        route="POST /jobs/{id}/retry",
        tag="jobs",
        summary="Start a new run of what did not succeed",
        parameters=(_ID,),
        answers=(Answer(status=202, says="the new run", bodies=(RetryAnswer,)),),
        refusals=(*_OF_JOBS, errors.JobNotRetryable, errors.ServerBusy),
    ),
    Operation(
        route="POST /jobs/{id}/cancel",
        tag="jobs",
        summary="Close a job; what succeeded stays",
        parameters=(_ID,),
        answers=(
            Answer(status=200, says="whether it was open", bodies=(CancelAnswer,)),
        ),
        refusals=(*_OF_JOBS, errors.ServerBusy),
    ),
    Operation(
        route="DELETE /jobs/{id}",
        tag="jobs",
        summary="Forget a job with all its bytes",
        parameters=(_ID,),
        answers=(Answer(status=204, says="it is gone"),),
        refusals=(*_OF_JOBS, errors.ServerBusy),
    ),
    Operation(
        route="GET /jobs/{id}/events",
        tag="progress",
        summary="Tell the progress of one job as server-sent events",
        parameters=(_ID, _header("Last-Event-ID", "the last `seq` heard")),
        answers=(
            Answer(status=200, says="a stream", media_type=STREAM),
            Answer(status=204, says="the end was heard already"),
        ),
        refusals=_OF_JOBS,
    ),
    Operation(
        route="GET /ws",
        tag="progress",
        summary="Tell the progress of jobs over a WebSocket",
        parameters=(_query("job", "a job to watch; repeatable", {**_TEXT}),),
        answers=(Answer(status=101, says="the socket is open"),),
    ),
    Operation(
        route="GET /jobs/{id}/files/{name}",
        tag="downloads",
        summary="Download the original or a derivative",
        parameters=(
            _ID,
            _NAME,
            _query(
                "inline", "show it in the browser, if that is safe", {"enum": ["1"]}
            ),
            _header("Range", "the bytes wanted"),
            _header("If-Range", "the ETag or date of which the bytes are wanted"),
            _header("If-None-Match", "the ETag of what is there already"),
            _header("Accept-Encoding", "gzip: texts that were made come compressed"),
        ),
        answers=(
            Answer(status=200, says="the file", media_type="*/*", headers=("ETag",)),
            Answer(status=206, says="a part of it", media_type="*/*"),
            Answer(status=304, says="nothing changed"),
        ),
        refusals=(
            *_OF_FILES,
            errors.PreconditionFailed,
            errors.RangeNotSatisfiable,
        ),
    ),
    Operation(
        route="GET /jobs/{id}/files.zip",
        tag="downloads",
        summary="Download the original and all derivatives at once",
        parameters=(_ID,),
        answers=(Answer(status=200, says="a zip", media_type="application/zip"),),
        refusals=_OF_FILES,
    ),
)

TASKS: Final = (
    Operation(
        route="POST /tasks",
        tag="tasks",
        summary="Give the server a task to do in the background",
        parameters=(_ONCE,),
        takes={"application/json": TaskOrder},
        answers=(
            Answer(status=202, says="it is on stable storage", bodies=(TaskAnswer,)),
        ),
        refusals=(*_OF_SUBMISSIONS, errors.UnknownTask),
    ),
    Operation(
        route="GET /tasks/{id}",
        tag="tasks",
        summary="Tell everything about a task",
        parameters=(_ID,),
        answers=(Answer(status=200, says="the task", bodies=(TaskView,)),),
        refusals=_OF_JOBS,
    ),
    Operation(
        route="POST /events",
        tag="tasks",
        summary="Publish an application event to its consumers",
        parameters=(_ONCE,),
        takes={"application/json": Announcement},
        answers=(
            Answer(status=202, says="it is on stable storage", bodies=(EventAnswer,)),
        ),
        refusals=(*_OF_SUBMISSIONS, errors.InvalidEventType),
    ),
)


def _page(path: str, summary: str, *, needs_admin: bool = False) -> Operation:
    shown = Answer(status=200, says="the page", media_type="text/html")
    return Operation(
        route=f"GET {path}",
        tag="pages",
        summary=summary,
        answers=(shown,),
        needs_admin=needs_admin,
    )


PAGES: Final = (
    _page("/", "Show the page to upload files"),
    _page("/admin", "Show the operator's page", needs_admin=True),
    _page("/docs", "Show this description to people"),
    Operation(
        route="GET /openapi.json",
        tag="pages",
        summary="Describe the server for programs",
        answers=(Answer(status=200, says="this", media_type="application/json"),),
    ),
    Operation(
        route="GET /assets/{name}",
        tag="pages",
        summary="A script or a style of a page",
        parameters=(_NAME,),
        answers=(Answer(status=200, says="the file", media_type="*/*"),),
        refusals=(errors.NotFound,),
    ),
)

OPERATIONS: Final = (*RESUMABLE, *WHOLE, *CHUNKED, *JOBS, *TASKS, *OPERATOR, *PAGES)
