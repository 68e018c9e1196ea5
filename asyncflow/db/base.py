"""The database contract: a private list of named operations, one transaction each.

No SQL and no closures cross it, so that another database can implement the same list.
Reshape it freely: nobody outside this package implements it.

Rules
-----
- An operation that changes what people see returns, or hands to `on_change`, a
  `Change`; `on_change` is called on the loop, in commit order, once for each.
- A stale token never changes anything: the operation says so in its result.
- Times are milliseconds since 1970 (UTC); `lease_until` and `mono` are milliseconds on
  the caller's monotonic clock.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from asyncflow.db.oversight import Note, Oversight, Registered
from asyncflow.db.records import (
    Claimed,
    Demand,
    Ended,
    NewUpload,
    Once,
    Owner,
    Page,
    Place,
    Published,
    StoredFile,
    Submission,
    Trash,
    UploadRow,
)
from asyncflow.jobs import JobState, Limits, PlanEntry, StepState, Subscription
from asyncflow.queues import LaneWaits
from asyncflow.uploads import Saying
from asyncflow.views import AttemptView, EventView, JobView


class Database(Oversight, Protocol):
    """Jobs, steps, events and uploads."""

    async def start(self) -> None:
        """Open, migrate (after a copy) and get ready. Raise DatabaseTooNew."""
        ...

    async def close(self) -> None:
        """Finish what is queued and let go."""
        ...

    @property
    def trouble(self) -> str | None:
        """Say why writing does not work just now; None: it does."""
        ...

    async def probe(self, now: int) -> None:
        """Write one durable row. Raise DatabaseUnavailable if that fails."""
        ...

    # ----- uploads

    async def create_upload(self, new: NewUpload) -> str:
        """Store the upload and its job (UPLOADING); return its id.

        Another id, or the chosen one again: such an upload is there already, by the
        same Idempotency-Key or by the chosen id; nothing was stored.
        Raise KeyReused, TooManyUploads, UploadGone if one that was deleted had the
        chosen id, UploadNotFound if no client may choose it.
        """
        ...

    async def created_before(self, owner: str, tenant: str, once: Once) -> str | None:
        """Return what a request with this Idempotency-Key has created; None: nothing.

        Raise KeyReused.
        """
        ...

    async def has_created(self, owner: str, tenant: str, key: str) -> bool:
        """Tell whether some request with this Idempotency-Key has created a job."""
        ...

    async def find_upload(self, upload_id: str) -> UploadRow:
        """Return the upload. Raise UploadNotFound."""
        ...

    async def accept(
        self, upload_id: str, *, size: int, gates: Sequence[PlanEntry], now: int
    ) -> None:
        """Make the upload complete: job PENDING, `file.uploaded`, its gate steps.

        A part becomes complete and nothing follows, but that what it is joined from
        with others does not expire, nor they, once all of them are there. Parts of an
        upload that is complete live a while longer; those without a name are given up.
        Doing it again is not an error and changes nothing.
        Raise UploadNotFound or UploadGone.
        """
        ...

    async def end_upload(
        self, upload_id: str, *, state: JobState, code: str, detail: str, now: int
    ) -> bool:
        """End an unfinished upload as CANCELLED or REJECTED; tell whether it was open.

        Its bytes go to the trash; a complete upload is left alone, a part is forgotten.
        Parts that no client can name end with what they have a place in, and only so.
        Raise UploadNotFound.
        """
        ...

    async def extend_upload(self, upload_id: str, expires: int) -> None:
        """Move the end of an unfinished upload's, or of a part's, time.

        What waits for a part, and that one's other parts, get no less.
        """
        ...

    async def give_up_strays(self, last: int) -> None:
        """Give up complete parts without name and place, up to the row id *last*."""
        ...

    async def drop_parts(self, limit: int) -> int:
        """Move some of the given-up parts to the trash; return how many."""
        ...

    async def set_length(
        self, upload_id: str, length: int, *, is_end: bool = False
    ) -> bool:
        """Store a length, and that it is the end; False: another one is known."""
        ...

    async def set_checked_from(self, upload_id: str, at: int | None) -> None:
        """Store where a chunk begins whose checksum is still to be seen; None: none."""
        ...

    async def set_joined(self, upload_id: str, at: int) -> None:
        """Store that a joined upload's own blob has its bytes from *at* on.

        From then on its parts may lack them. Raise UploadGone unless it is unfinished.
        """
        ...

    async def set_digest(self, upload_id: str, digest: str) -> None:
        """Store the digest that the whole unfinished upload must have."""
        ...

    async def note_digest(self, upload_id: str, digest: str) -> None:
        """Store the digest that a complete upload has, if none is stored."""
        ...

    async def say(self, upload_id: str, saying: Saying) -> bool:
        """Store what is said of an unfinished upload; False: it was not so before."""
        ...

    async def take_place(
        self, final_id: str, n: int, part_id: str, saying: Saying | None = None
    ) -> str | None:
        """Put a part into place *n*; return which part is there (the first stays).

        Who comes later says nothing. None: see `say`; the part has no place.
        Raise UploadGone if the upload has ended, UploadComplete if it is complete: its
        places may have been given up.
        """
        ...

    async def places(self, final_id: str) -> Sequence[Place]:
        """Return the parts of a joined upload in their order."""
        ...

    async def span_of(self, final_id: str, n: int) -> tuple[int, int] | None:
        """Return where in a joined upload the bytes of place *n* begin and end.

        Its parts need not be there any more. None: that is not known.
        """
        ...

    async def finals_of(self, part_id: str) -> Sequence[str]:
        """Return the unfinished uploads that a part has a place in."""
        ...

    async def open_uploads_of(self, client: str) -> int:
        """Return how many unfinished uploads are counted for a client."""
        ...

    async def expired_uploads(self, now: int, limit: int) -> Sequence[str]:
        """Return ids of unfinished uploads, and of parts, whose time is over."""
        ...

    async def latest_upload(self) -> int:
        """Return the row id of the upload that was created last; 0: there is none."""
        ...

    async def unfinished_uploads(self, after: int, limit: int) -> Sequence[UploadRow]:
        """Return a page of unfinished uploads (for recovery), oldest first."""
        ...

    # ----- steps

    async def register(
        self, consumers: Sequence[Subscription], *, node: str, now: int
    ) -> None:
        """Put the consumers of *node* into the registry: those that run beside us.

        What it has registered before, under whichever name, and has no longer, is
        forgotten; what others have stays. Steps that wait for what nobody has any more
        are skipped: nobody would ever take them.
        """
        ...

    async def registry(self, node: str) -> Sequence[Registered]:
        """Return every registered consumer once, by name, as *node* sees them."""
        ...

    async def claim(self, demand: Demand) -> Sequence[Claimed]:
        """Take ready steps: by priority, then by lane."""
        ...

    async def beat(
        self,
        running: Sequence[tuple[int, int]],
        *,
        lease_until: int,
        mono: int,
        now: int,
        limits: Limits,
    ) -> Sequence[tuple[int, int]]:
        """Renew the leases of *running* (step, token), then free those that are over.

        Returns those of *running* that are no longer ours.
        """
        ...

    async def publish(
        self, step_id: int, token: int, made: Published, now: int
    ) -> bool:
        """Make a derivative visible; False: the token is stale, nothing changed."""
        ...

    async def settle(
        self,
        step_id: int,
        token: int,
        ended: Ended,
        *,
        limits: Limits,
        now: int,
        patient: bool = False,
    ) -> StepState | None:
        """Store how an attempt ended and all that follows; None: the token is stale.

        If *patient*, that may wait a moment for other writes.
        """
        ...

    async def recover(self, *, limits: Limits, now: int) -> int:
        """Free every lease (their owner is dead); return how many there were."""
        ...

    # ----- jobs

    async def retry(self, job_id: str, now: int, note: Note | None = None) -> int:
        """Start a new run of what did not succeed; return its number.

        Raise JobNotFound or JobNotRetryable.
        """
        ...

    async def cancel(self, job_id: str, now: int, note: Note | None = None) -> bool:
        """Close the job as CANCELLED; False: it was over already. Raise JobNotFound."""
        ...

    async def delete(self, job_id: str, now: int, note: Note | None = None) -> None:
        """Forget the job; its bytes go to the trash.

        Nobody gets its id again until `forget_spent` gives it back. Raise JobNotFound.
        """
        ...

    async def job(self, job_id: str) -> JobView:
        """Return the job with its steps and files. Raise JobNotFound."""
        ...

    async def jobs(
        self,
        *,
        state: JobState | None,
        before: int | None,
        limit: int,
        search: str = "",
    ) -> Page:
        """Return a page of jobs without their steps, newest first.

        *search* is a part of the file's name or of the job's id, in any ASCII case.
        """
        ...

    async def attempts(self, job_id: str) -> Sequence[AttemptView]:
        """Return the attempts that did not succeed, oldest first. Raise JobNotFound."""
        ...

    async def events(self, job_id: str) -> Sequence[EventView]:
        """Return what happened to a job, oldest first. Raise JobNotFound."""
        ...

    async def owner(self, job_id: str) -> Owner:
        """Return whose job it is. Raise JobNotFound."""
        ...

    async def file(self, job_id: str, name: str) -> StoredFile:
        """Return one file. Raise JobNotFound or FileNotAvailable."""
        ...

    # ----- without a file

    async def submit(self, new: Submission) -> str:
        """Store a task or an event as a job; return its id, also of one there before.

        Raise KeyReused.
        """
        ...

    # ----- numbers

    async def tallies(self) -> Mapping[tuple[str, str], int]:
        """Return how many steps each consumer has in each state."""
        ...

    async def waiting_lanes(self) -> Mapping[str, LaneWaits]:
        """Count what waits by lane: reads as many steps as there wait."""
        ...

    async def open_uploads(self) -> int:
        """Return how many uploads are unfinished."""
        ...

    async def stored_bytes(self) -> int:
        """Return how many bytes originals and derivatives have."""
        ...

    async def trash(self, limit: int) -> Sequence[Trash]:
        """Return bytes to remove, but for what a row names all the same."""
        ...

    async def forget_spent(self, before: int, limit: int) -> int:
        """Give back ids that clients chose and whose jobs were deleted before *before*.

        Not while their bytes are in the trash. Return how many, *limit* at most.
        """
        ...

    async def drop_trash(self, removed: Sequence[str]) -> None:
        """Forget trash whose bytes are gone."""
        ...
