"""Everything asyncflow raises on purpose.

Rules
-----
- A class states a fact; its docstring's first line is that fact in plain words.
- `code` is stable and documented; a client may compare it, never the text.
- `fault` says whose it is: "client", "file" or "server". Only "server" is an alert.
- The HTTP status of a code lives in `asyncflow.web.errors`, nowhere else.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

Fault = Literal["client", "file", "server"]


class AsyncflowError(Exception):
    """Something went wrong inside asyncflow."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = "server"
    #: seconds after which the same request may succeed; None: no such promise
    retry_after_s: float | None = None

    @property
    def detail(self) -> str:
        """The sentence shown to the person who caused or met the error."""
        return str(self) or (type(self).__doc__ or "").strip().splitlines()[0]

    def extra(self) -> Mapping[str, object]:
        """Typed facts for programs; become members of the problem document."""
        return {}


# ----- the client's requests


class ClientError(AsyncflowError):
    """The request cannot be honoured as it is."""

    code = "bad_request"
    fault = "client"


class InvalidHeader(ClientError):
    """A header is missing or malformed."""

    code = "invalid_header"

    def __init__(self, name: str, value: str | None, *, accepted: str) -> None:
        shown = "is missing" if value is None else f"is {value[:80]!r}"
        super().__init__(f"{name} {shown}; accepted: {accepted}")
        self.name, self.accepted = name, accepted

    def extra(self) -> Mapping[str, object]:
        """Name the header and what it may hold."""
        return {"header": self.name, "accepted": self.accepted}


class InvalidParameter(ClientError):
    """A query parameter or field is missing or malformed."""

    code = "invalid_parameter"

    def __init__(
        self, name: str, value: str | None, *, accepted: str, why: str = ""
    ) -> None:
        shown = "is missing" if value is None else f"is {value[:80]!r}"
        super().__init__(why or f"{name} {shown}; accepted: {accepted}")
        self.name, self.accepted = name, accepted

    def extra(self) -> Mapping[str, object]:
        """Name the parameter and what it may hold."""
        return {"parameter": self.name, "accepted": self.accepted}


class InvalidMultipart(ClientError):
    """The multipart body is malformed."""

    code = "invalid_multipart"


class MissingFile(ClientError):
    """The multipart body has no part named `file` with a file name."""

    code = "missing_file"


class MissingBody(ClientError):
    """The request has no body: send the file as the body."""

    code = "missing_body"


class TruncatedBody(ClientError):
    """The body ended before the announced length; what arrived is kept."""

    code = "truncated_body"


class SlowBody(ClientError):
    """The body came more slowly than this server waits for; what arrived is kept."""

    code = "slow_body"


class SlowHead(ClientError):
    """The request's head did not arrive in time."""

    code = "slow_head"


class HeadTooLarge(ClientError):
    """The request line or the headers are larger than this server takes."""

    code = "head_too_large"


class MalformedRequest(ClientError):
    """This is not a valid HTTP request."""

    code = "malformed_request"


class UnsupportedHttpVersion(ClientError):
    """This server speaks HTTP/1.1 and HTTP/1.0."""

    code = "unsupported_http_version"


class BodyTooLarge(ClientError):
    """The body is larger than this resource takes."""

    code = "body_too_large"


class PreconditionFailed(ClientError):
    """The file is no longer the one that If-Match or If-Unmodified-Since names."""

    code = "precondition_failed"


class RangeNotSatisfiable(ClientError):
    """The file has no bytes in the range asked for."""

    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes: none in the range asked for")
        self.size = size

    def extra(self) -> Mapping[str, object]:
        """Give the file's size in bytes."""
        return {"size": self.size}


class LengthMismatch(ClientError):
    """The upload's length is known, and another one."""

    code = "inconsistent_length"


class ChecksumMismatch(ClientError):
    """The bytes of this request do not have the checksum announced; none is kept."""

    code = "checksum_mismatch"


class DigestMismatch(ClientError):
    """The bytes do not have the digest announced; they are not kept."""

    code = "digest_mismatch"


class DigestConflict(ClientError):
    """Another digest was announced for this file before; nothing was changed."""

    code = "digest_conflict"


class FinalUpload(ClientError):
    """This upload is joined from its parts and takes no bytes itself."""

    code = "final_upload"


class PartNotUsable(ClientError):
    """A part named for this upload is not there, or is no part."""

    code = "part_not_usable"


class ChunkConflict(ClientError):
    """This chunk contradicts what has arrived under the same jobId."""

    code = "chunk_conflict"


class KeyReused(ClientError):
    """This Idempotency-Key belongs to another request."""

    code = "idempotency_key_reused"


class UnsupportedContentType(ClientError):
    """The Content-Type of the request is not accepted here."""

    code = "unsupported_content_type"


class UnsupportedContentEncoding(ClientError):
    """Uploads are taken as they are: send no Content-Encoding."""

    code = "unsupported_content_encoding"


class UnsupportedTransferCoding(ClientError):
    """The body has a transfer coding that this server does not know."""

    code = "unsupported_transfer_coding"


class UnsupportedTusVersion(ClientError):
    """Tus-Resumable must be 1.0.0."""

    code = "unsupported_tus_version"


class TypeNotAllowed(ClientError):
    """This server does not take files of this type."""

    code = "type_not_allowed"


class TypeMismatch(ClientError):
    """The content is not of the kind that its name or type declares."""

    code = "type_mismatch"


class UploadTooLarge(ClientError):
    """The file is larger than this server takes."""

    code = "upload_too_large"

    def __init__(
        self, *, length: int | None, max_bytes: int, what: str = "file"
    ) -> None:
        shown = f"the {what}" if length is None else f"a {what} of {length} bytes"
        super().__init__(f"{shown} is larger than the limit of {max_bytes} bytes")
        self.max_bytes = max_bytes

    def extra(self) -> Mapping[str, object]:
        """Give the limit."""
        return {"maxBytes": self.max_bytes}


class PastUploadLength(ClientError):
    """The body reaches beyond the upload's length."""

    code = "past_upload_length"


class OffsetMismatch(ClientError):
    """The client's offset is not the server's."""

    code = "offset_mismatch"

    def __init__(self, *, expected: int, received: int) -> None:
        super().__init__(f"the upload is at offset {expected}, not {received}")
        self.expected, self.received = expected, received

    def extra(self) -> Mapping[str, object]:
        """Give both offsets."""
        return {"expected-offset": self.expected, "provided-offset": self.received}


class UploadPreempted(ClientError):
    """A newer request on the same upload took over; ask for the offset."""

    code = "upload_preempted"


class UploadComplete(ClientError):
    """The upload is complete and takes no more bytes."""

    code = "upload_complete"


class NotFound(ClientError):
    """Nothing is here."""

    code = "not_found"


class MethodNotAllowed(ClientError):
    """This resource does not know that method."""

    code = "method_not_allowed"


class UploadNotFound(ClientError):
    """No upload has this id."""

    code = "upload_not_found"


class UploadGone(ClientError):
    """The upload was ended or has expired."""

    code = "upload_gone"


class JobNotFound(ClientError):
    """No job has this id."""

    code = "job_not_found"


class FileNotAvailable(ClientError):
    """The job has no file of this name to download."""

    code = "file_not_available"


class JobNotRetryable(ClientError):
    """The job has nothing that could be retried."""

    code = "job_not_retryable"


class StepNotFound(ClientError):
    """No step has this number."""

    code = "step_not_found"


class StepNotRetryable(ClientError):
    """The step is not dead."""

    code = "step_not_retryable"


class StepNotOpen(ClientError):
    """The step is over."""

    code = "step_not_open"


class UnknownConsumer(ClientError):
    """No consumer has this name."""

    code = "unknown_consumer"


class UnknownTask(ClientError):
    """No task has this name."""

    code = "unknown_task"


class UnknownPipeline(ClientError):
    """No pipeline has this name."""

    code = "unknown_pipeline"


class InvalidEventType(ClientError):
    """An application may not publish events of this type."""

    code = "invalid_event_type"


class Unauthorized(ClientError):
    """Nobody known to this server is asking."""

    code = "unauthorized"


class Forbidden(ClientError):
    """Who is asking may not do this."""

    code = "forbidden"


class ForeignOrigin(ClientError):
    """A page of another site may not do this."""

    code = "foreign_origin"


class MisdirectedHost(ClientError):
    """The Host header names a server that this one is not."""

    code = "misdirected_host"


class TooManyUploads(ClientError):
    """This client has as many unfinished uploads as this server allows."""

    code = "too_many_uploads"
    retry_after_s = 60.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"finish or end some first: at most {limit} may be open")
        self.limit = limit

    def extra(self) -> Mapping[str, object]:
        """Give the limit."""
        return {"maxOpen": self.limit}


class UpgradeRequired(ClientError):
    """This address speaks WebSocket only."""

    code = "upgrade_required"


class TooManyConnections(ClientError):
    """This server has as many open sockets as it takes."""

    code = "too_many_connections"
    retry_after_s = 5.0


# ----- refusals because of the state of this server


class ServerBusy(AsyncflowError):
    """The server cannot take this now."""

    code = "busy"
    fault = "server"
    retry_after_s = 5.0


class BacklogFull(ServerBusy):
    """Too much work is waiting already."""

    code = "backlog_full"


class ShuttingDown(ServerBusy):
    """The server is stopping; another start will take this."""

    code = "shutting_down"


class UploadBusy(ServerBusy):
    """The disk still holds the upload's last write."""

    code = "upload_busy"


class DiskFull(ServerBusy):
    """The disk has no room for this; what arrived is kept."""

    code = "disk_full"
    retry_after_s = 60.0


class QuotaExceeded(ServerBusy):
    """What is stored has reached what may be stored."""

    code = "quota_exceeded"
    retry_after_s = 3600.0


class DatabaseUnavailable(ServerBusy):
    """The database cannot write now."""

    code = "database_unavailable"


class OutcomeUnknown(DatabaseUnavailable):
    """A commit failed half-way: the change may or may not have been stored."""

    code = "outcome_unknown"


# ----- what stops a server from starting


class StartError(AsyncflowError):
    """The server cannot start like this."""

    code = "cannot_start"


class BadSettings(StartError):
    """Some settings have values that asyncflow cannot run with."""

    code = "bad_settings"


class DataDirInUse(StartError):
    """Another server uses this data folder."""

    code = "data_dir_in_use"


class DatabaseTooNew(StartError):
    """The database was written by a newer asyncflow."""

    code = "database_too_new"


# ----- stores


class StoreError(AsyncflowError):
    """The store cannot do this."""

    code = "store"


class StoreUnavailable(StoreError, ServerBusy):
    """The disk did not keep the bytes of this request; send them again."""

    code = "store_unavailable"
    retry_after_s = 5.0


class BlobNotFound(StoreError):
    """The store holds no blob under this key."""

    code = "blob_not_found"


class BlobExists(StoreError):
    """The store already holds a blob under this key."""

    code = "blob_exists"


# ----- backups


class BackupError(AsyncflowError):
    """The backup cannot be made, read or restored."""

    code = "backup"


# ----- what a processor says about its file


class ProcessorError(AsyncflowError):
    """A processor could not do its work."""

    code = "processor"


class BadFile(ProcessorError):
    """The file itself is at fault: trying again cannot help.

    `reason` is one of `asyncflow.jobs.REASONS` or a code of the processor's own.
    """

    code = "bad_file"
    fault = "file"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TryLater(ProcessorError):
    """Something outside is not ready; the attempt is not charged.

    Raises:
        ValueError: *after_s* is no finite number of seconds.
    """

    code = "try_later"

    def __init__(self, after_s: float, detail: str) -> None:
        if not math.isfinite(after_s):
            raise ValueError(f"after_s is {after_s}; accepted: a number of seconds")
        super().__init__(detail)
        self.after_s = after_s


class Skip(ProcessorError):
    """The step has nothing to do here: it ends as skipped, with the reason."""

    code = "skip"

    def __init__(self, detail: str, *, reason: str = "missing_tool") -> None:
        super().__init__(detail)
        self.reason = reason


class OutputRefused(ProcessorError):
    """The name of a file is that of another step of the job, or there are too many."""

    code = "bad_output"
