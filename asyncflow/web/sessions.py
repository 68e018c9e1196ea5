"""Who watches which jobs, and what they have still to be sent.

Theory of operation
-------------------
A session joins the hub first and reads the snapshot second; what it hears meanwhile is
held back and then sent if the snapshot does not contain it already.
Its outlet, if it has one, sends a message at once; only while a client takes less than
it is sent do its messages wait in the session. What a slow reader has not taken is
bounded: only the newest `progress` of a job is kept, and a session whose numbered
messages pile up is over, so that its next snapshot tells it all.
"""

import asyncio
from typing import Final, Protocol

from asyncflow import uploads
from asyncflow.errors import AsyncflowError, JobNotFound
from asyncflow.progress import Hub, Message, encode
from asyncflow.runtime import Runtime
from asyncflow.web.owners import Reach

MAX_QUEUED: Final = 1000
MAX_JOBS: Final = 1000


class Outlet(Protocol):
    """Who sends a session's messages."""

    def offer(self, message: Message) -> bool:
        """Send *message* at once, or return False: then it waits in the session."""
        ...

    def over(self) -> None:
        """Take note that the session has ended."""
        ...


class Session:
    """One watcher: the jobs it watches and what it has still to be sent.

    A WebSocket and an event stream differ only in who sends the messages.
    """

    __slots__ = (
        "_held",
        "_hub",
        "_is_over",
        "_queue",
        "_reach",
        "_runtime",
        "_waiter",
        "outlet",
    )

    def __init__(self, runtime: Runtime, reach: Reach | None = None) -> None:
        """Watch for somebody who can *reach* some jobs; None: every one."""
        self._runtime = runtime
        #: None: somebody waits for what `take` returns
        self.outlet: Outlet | None = None
        self._reach = reach
        self._hub: Hub = runtime.hub
        # a list and no event: of thousands of sessions hardly one ever waits
        self._queue: list[Message] = []
        self._waiter: asyncio.Future[None] | None = None
        #: job -> the version of its snapshot; messages held back until that is there
        self._held: dict[str, int | list[Message]] = {}
        self._is_over = False

    def hear(self, message: Message) -> None:
        """Take a message of the hub."""
        known = self._held.get(message.job_id)
        if isinstance(known, list):
            known.append(message)
        elif known is not None:
            self._put_newer(message, known)

    def _put_newer(self, message: Message, known: int) -> None:
        if message.seq is None or message.is_last or message.seq > known:
            self._put(message)

    def _put(self, message: Message) -> None:
        if not self._queue and self.outlet is not None and not self._is_over:
            if self.outlet.offer(message):
                return
        elif message.type == "progress":
            self._drop_progress(message.job_id)
        if len(self._queue) >= MAX_QUEUED:
            self.end()
        elif not self._is_over:
            self._queue.append(message)
        self._wake()

    def _drop_progress(self, job: str) -> None:
        for waiting in self._queue:
            if waiting.type == "progress" and waiting.job_id == job:
                self._queue.remove(waiting)
                return

    async def subscribe(self, job: str) -> None:
        """Watch *job*: its snapshot goes out first."""
        if job in self._held:
            return
        if len(self._held) >= MAX_JOBS:
            self._complain(job, "too_many_jobs", f"a socket watches {MAX_JOBS} jobs")
            return
        if not uploads.is_id(job):
            self._complain(job, JobNotFound.code, JobNotFound().detail)
            return
        self._held[job] = []
        self._hub.join(job, self)
        try:
            if self._reach is not None:
                await self._reach.check(job)
            view = await self._runtime.status(job)
        except AsyncflowError as error:
            self.unsubscribe(job)
            self._complain(job, error.code, error.detail)
            return
        text = encode("snapshot", job, view.version, job=view)
        held = self._held.get(job)
        if not isinstance(held, list):
            return  # it has left meanwhile
        self._held[job] = view.version
        snapshot = Message(
            type="snapshot",
            job_id=job,
            seq=view.version,
            text=text,
            is_last=view.status.is_final,
        )
        self._put(snapshot)
        for message in held:
            self._put_newer(message, view.version)

    def _complain(self, job: str, code: str, detail: str) -> None:
        text = encode("error", job, None, code=code, detail=detail)
        self._put(Message(type="error", job_id=job, seq=None, text=text))

    def unsubscribe(self, job: str) -> None:
        """Stop watching *job*."""
        self._hub.leave(job, self)
        self._held.pop(job, None)

    def leave(self) -> None:
        """Stop watching everything."""
        for job in tuple(self._held):
            self.unsubscribe(job)

    def end(self) -> None:
        """Make `take` return None from now on, whatever is still queued."""
        self._is_over = True
        self._queue.clear()
        self._wake()
        if self.outlet is not None:
            self.outlet.over()

    def next(self) -> Message | None:
        """Return the next message that waits; None: none does."""
        return self._queue.pop(0) if self._queue else None

    async def take(self) -> Message | None:
        """Wait for the next message; None: the watcher reads too slowly, or must go."""
        while not self._queue and not self._is_over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return None if self._is_over else self._queue.pop(0)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
