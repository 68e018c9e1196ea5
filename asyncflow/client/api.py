"""The client: everything a program can ask of an asyncflow server."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from asyncflow.client.downloading import Download
from asyncflow.client.failures import ServerRefused
from asyncflow.client.messages import (
    Consumer,
    Consumers,
    Job,
    Page,
    Replayed,
    Taken,
    Update,
)
from asyncflow.client.session import Patience, Session, decode, segment
from asyncflow.client.sources import (
    BinaryFile,
    Memory,
    OpenFile,
    is_file,
    keep_stream,
    open_path,
    pieces_of,
)
from asyncflow.client.unfinished import Unfinished, state_folder
from asyncflow.client.uploading import (
    CHUNK_BYTES,
    Progress,
    Upload,
    memo_for,
)
from asyncflow.client.watching import Watch

_UNAUTHORIZED = 401


def _ignore_progress(_progress: Progress) -> None:
    """Tell nobody."""


def _ignore_update(_update: Update) -> None:
    """Tell nobody."""


class Client:
    """A connection to the server at *url*; use it with `async with`.

    *token* is sent to that server only. *state_dir* is where unfinished uploads are
    remembered (default: the user's state folder). Every method raises RequestFailed
    or one of its kinds.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        state_dir: Path | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._session = Session(url, token, patience or Patience())
        self._unfinished = Unfinished(state_dir or state_folder(os.environ))
        self._chunk_bytes = chunk_bytes

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def reach(self) -> None:
        """Return if a server answers now, without patience; else ServerUnreachable."""
        async with self._session.request("GET", "livez"):
            pass

    async def is_ready(self) -> bool:
        """Tell whether the server that answers takes work now."""
        try:
            async with self._session.request("GET", "readyz"):
                return True
        except ServerRefused:
            return False

    async def is_known(self) -> bool:
        """Tell whether the server takes our token, or needs none and got none."""
        try:
            async with self._session.request("GET", "capabilities"):
                return True
        except ServerRefused as refusal:
            return refusal.status != _UNAUTHORIZED

    def address_of(self, reference: str) -> str:
        """Return the whole address of a reference that the server gave."""
        return str(self._session.resolve(reference))

    async def upload(
        self,
        source: str
        | os.PathLike[str]
        | bytes
        | bytearray
        | memoryview
        | BinaryFile
        | AsyncIterator[bytes],
        *,
        name: str | None = None,
        media_type: str | None = None,
        on_progress: Callable[[Progress], None] = _ignore_progress,
        resume: bool = True,
    ) -> str:
        """Upload *source* and return the job's id once the server holds all of it.

        A path is resumable: after a crash or Ctrl-C, the same call in a later process
        continues it (unless *resume* is false). Under another *name* or *media_type* it
        is another upload; *name* defaults to the path's own. What is left in a binary
        file, or in a stream, is first kept in a temporary file; so is a file of no
        known size, as those of `/proc`.

        Raises:
            OSError: the file cannot be read, the path is none of a regular file, or a
                file that does not block has nothing to read yet.
            TypeError: *source* is nothing of the kind, or a file of text.
            SourceChanged: the file changed meanwhile.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            kept = Memory(bytes(source))
            return await self._send(kept, name, media_type, on_progress)
        if not isinstance(source, str | os.PathLike):
            stream = pieces_of(source) if is_file(source) else source
            if not isinstance(stream, AsyncIterable):
                kind = type(source).__name__
                raise TypeError(f"upload a path, bytes, a file or a stream, not {kind}")
            kept_file = await keep_stream(stream)
            return await self._send(kept_file, name, media_type, on_progress)
        path = Path(source)
        opened = await open_path(path)
        return await self._send(
            opened,
            name or path.name,
            media_type,
            on_progress,
            remember_as=None if opened.is_temporary or not resume else path,
        )

    async def _send(
        self,
        source: Memory | OpenFile,
        name: str | None,
        media_type: str | None,
        on_progress: Callable[[Progress], None],
        *,
        remember_as: Path | None = None,
    ) -> str:
        memo, name = None, name or "unnamed"
        if remember_as is not None and isinstance(source, OpenFile):
            memo = memo_for(
                self._session,
                self._unfinished,
                remember_as,
                source,
                name=name,
                media_type=media_type,
            )
        try:
            return await Upload(
                session=self._session,
                source=source,
                name=name,
                media_type=media_type,
                memo=memo,
                on_progress=on_progress,
                chunk_bytes=self._chunk_bytes,
            ).run()
        finally:
            source.close()

    async def status(self, job_id: str) -> Job:
        """Return the job as it is now."""
        reference = f"status/{segment(job_id)}"
        return await self._session.fetch("GET", reference, Job)

    async def jobs(
        self, *, state: str | None = None, page: int = 100
    ) -> AsyncGenerator[Job, None]:
        """Yield jobs, newest first, in *state* or in any; fetches *page* at a time."""
        query = {"limit": str(page)} | ({"state": state} if state else {})
        while True:
            found = await self._session.fetch("GET", "jobs", Page, params=query)
            for job in found.jobs:
                yield job
            if found.next is None:
                return
            query["after"] = found.next

    def watch(self, job_id: str) -> AsyncGenerator[Update, None]:
        """Yield a snapshot of the job, then every change until it ends."""
        return Watch(session=self._session, job_id=job_id).updates()

    async def wait(
        self, job_id: str, on_update: Callable[[Update], None] = _ignore_update
    ) -> Job:
        """Return the job when it has ended, however it ended."""
        async with aclosing(self.watch(job_id)) as updates:
            async for update in updates:
                on_update(update)
                if update.job.is_final:
                    return update.job
        raise AssertionError("a watch ends with a final update")

    async def retry(self, job_id: str) -> Job:
        """Run the dead steps of a job again and return the job."""
        reference = f"jobs/{segment(job_id)}/retry"
        # not repeated on a broken connection by itself: twice is two runs
        async with self._session.request("POST", reference):
            pass
        return await self.status(job_id)

    async def cancel(self, job_id: str) -> Job:
        """Close a job and return it; what succeeded stays, what is over stays over."""
        reference = f"jobs/{segment(job_id)}/cancel"

        async def once(_attempt: int) -> None:
            # a second time finds it over already
            async with self._session.request("POST", reference):
                pass

        await self._session.patience.insist(once)
        return await self.status(job_id)

    async def submit(
        self,
        name: str,
        payload: object = None,
        *,
        key: str | None = None,
        **more: object,
    ) -> str:
        """Give the server the task called *name*; return its id, which is a job's too.

        *payload* is JSON. *key* makes a repeated call one task; without one, each call
        has its own. *more*: `priority`, `delay` (seconds), `runAt`, `tenant`.
        """
        said = {"name": name, "payload": payload, **more}
        return (await self._post_once("tasks", said, key)).task_id

    async def publish(
        self, kind: str, data: object = None, *, key: str | None = None, **more: object
    ) -> str:
        """Publish an event of type *kind* to its consumers; return its job's id.

        *data* is JSON, *key* as for `submit`. *more*: `priority`, `tenant`.
        """
        said = {"type": kind, "data": data, **more}
        return (await self._post_once("events", said, key)).job_id

    async def _post_once(
        self, reference: str, said: dict[str, object], key: str | None
    ) -> Taken:
        # with a key it can be repeated over a broken connection
        said["idempotencyKey"] = key or uuid4().hex
        return await self._session.fetch("POST", reference, Taken, json=said)

    async def result(self, task_id: str) -> object:
        """Return what the function of a task has returned; None until it has."""
        job = await self.status(task_id)
        facts = job.facts.get(job.file_name) or {}
        return facts.get("result")

    async def consumers(self) -> tuple[Consumer, ...]:
        """Return how each consumer does; needs the token."""
        found = await self._session.fetch("GET", "admin/consumers", Consumers)
        return found.consumers

    async def forget(self, consumer: str) -> None:
        """Let the server forget which other nodes have a consumer; needs the token."""
        reference = f"admin/consumers/{segment(consumer)}/forget"
        await self._session.fetch("POST", reference, Consumers)

    async def pause(self, consumer: str, *, on: bool = True) -> None:
        """Let a consumer begin no more steps, or let it go on; needs the token."""
        action = "pause" if on else "resume"
        reference = f"admin/consumers/{segment(consumer)}/{action}"
        await self._session.fetch("POST", reference, Consumers)

    async def pause_tenant(self, tenant: str, *, on: bool = True) -> None:
        """Let no step of a tenant begin, or let them again; needs the token.

        The tenant `-` is all that belongs to none.
        """
        action = "pause" if on else "resume"
        reference = f"admin/tenants/{segment(tenant)}/{action}"
        async with self._session.request("POST", reference):
            pass

    async def replay(self, consumer: str, since: datetime) -> int:
        """Give a consumer every event since *since* once more; return how many steps.

        *since* has a time zone. Needs the token.
        """
        reference = f"admin/consumers/{segment(consumer)}/replay"
        made, after = 0, 0
        while True:
            said = {"since": since.isoformat(), "after": after}
            async with self._session.request("POST", reference, json=said) as answer:
                done = decode(await answer.read(), Replayed, str(answer.url))
            made += done.steps
            if done.next is None:
                return made
            after = done.next

    async def delete(self, job_id: str) -> None:
        """Forget a job with all its bytes."""
        reference = f"jobs/{segment(job_id)}"

        sent: list[None] = []

        async def once(_attempt: int) -> None:
            try:
                async with self._session.request(
                    "DELETE", reference, trace_request_ctx=sent
                ):
                    pass
            except ServerRefused as refusal:
                # one before this did it, and only its answer was lost
                if len(sent) == 1 or not refusal.is_absence:
                    raise

        await self._session.patience.insist(once)

    async def file_name(self, job_id: str, name: str) -> str | None:
        """Return what a browser would call the file *name* of a job; None: unsaid."""
        reference = self._file(job_id, name)

        async def once(_attempt: int) -> str | None:
            async with self._session.request("HEAD", reference) as answer:
                told = answer.content_disposition
                return told.filename if told is not None else None

        return await self._session.patience.insist(once)

    async def download(
        self, job_id: str, name: str, to: str | os.PathLike[str]
    ) -> Path:
        """Fetch the file called *name* (`original`, `thumbnail`, …) into *to*.

        *to* appears only when it is whole. A broken download continues: until then its
        part lies beside *to*, as `.NAME.asyncflow-part`. Who may read it is for the
        umask to say.

        Raises:
            BlockingIOError: another download is filling *to*.
            OSError: there is no place for it; at *to* is a folder, a device or a pipe;
                or somebody else's file lies where its part belongs.
        """
        return await Download(
            session=self._session,
            reference=self._file(job_id, name),
            target=Path(to),
        ).run()

    def _file(self, job_id: str, name: str) -> str:
        return f"jobs/{segment(job_id)}/files/{segment(name)}"
