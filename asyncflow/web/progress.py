"""Progress over a WebSocket.

Messages are JSON text with `type` and `jobId`. Per job: first `snapshot` with all that
`GET /status` shows, then `step` with `seq` above the snapshot's, unnumbered `progress`,
last `job.completed`, `job.failed`, `job.rejected`, `job.cancelled` or `job.deleted`.
A client subscribes at connect (`/ws?job=ID`, repeatable) or later by
`{"subscribe": ["ID"]}`, and leaves by `{"unsubscribe": ["ID"]}`.

Theory of operation
-------------------
A session joins the hub first and reads the snapshot second; what it hears meanwhile is
held back and then sent if the snapshot does not contain it already.
A message goes straight to the socket's transport, as a frame that is built once for
all who get it; only while a client takes less than it is sent do its messages wait in
the session, where a task of its own drains them. What a slow reader has not taken is
bounded: only the newest `progress` of a job is kept, and a session whose numbered
messages pile up is closed, so that its next snapshot tells it all.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from asyncflow import uploads
from asyncflow.errors import (
    AsyncflowError,
    JobNotFound,
    TooManyConnections,
    UpgradeRequired,
)
from asyncflow.progress import Hub, Message, encode
from asyncflow.runtime import Runtime
from asyncflow.web.auth import READ, require
from asyncflow.web.keys import runtime_key
from asyncflow.web.owners import Reach, reach_key

MAX_QUEUED: Final = 1000
MAX_JOBS: Final = 1000
MAX_MESSAGE: Final = 64 * 1024
PING_S: Final = 25.0
#: a client that takes nothing for so long is cut off
SEND_S: Final = 10.0
#: bytes that may wait in a transport before messages wait in the session instead
MAX_BUFFERED: Final = 64 * 1024

#: the first byte of a whole text message, and the marks of longer lengths
TEXT_FRAME: Final = 0x81
LENGTH_IN_2: Final = 126
LENGTH_IN_8: Final = 127


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send."""

    subscribe: list[str] = []
    unsubscribe: list[str] = []


_wish = msgspec.json.Decoder(Wish)


def add_routes(app: web.Application) -> None:
    """Add the socket to *app*."""
    app.router.add_get("/ws", socket)


class Session:
    """One watcher: the jobs it watches and what it has still to be sent.

    A WebSocket and an event stream differ only in who sends what `take` returns.
    """

    def __init__(
        self,
        runtime: Runtime,
        reach: Reach | None = None,
        offer: Callable[[Message], bool] | None = None,
    ) -> None:
        """Watch for somebody who can *reach* some jobs; None: every one.

        *offer* sends a message at once, or returns False: then it waits for `take`.
        """
        self._runtime = runtime
        self._offer = offer
        self._reach = reach
        self._hub: Hub = runtime.hub
        # a list and no event: of thousands of sessions hardly one ever waits
        self._queue: list[Message] = []
        self._waiter: asyncio.Future[None] | None = None
        #: job -> messages held back until its snapshot is there; None: it is
        self._held: dict[str, list[Message] | None] = {}
        self._versions: dict[str, int] = {}
        self._is_over = False

    def hear(self, message: Message) -> None:
        """Take a message of the hub."""
        held = self._held.get(message.job_id)
        if held is not None:
            held.append(message)
        elif message.job_id in self._held:
            self._put(message)

    def _put(self, message: Message) -> None:
        known = self._versions.get(message.job_id, 0)
        if message.seq is not None and not message.is_last and message.seq <= known:
            return
        if not self._queue and self._offer is not None and not self._is_over:
            if self._offer(message):
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
        held, self._held[job] = self._held.get(job) or [], None
        snapshot = Message(
            type="snapshot",
            job_id=job,
            seq=view.version,
            text=text,
            is_last=view.status.is_final,
        )
        self._put(snapshot)
        self._versions[job] = view.version
        for message in held:
            self._put(message)

    def _complain(self, job: str, code: str, detail: str) -> None:
        text = encode("error", job, None, code=code, detail=detail)
        self._put(Message(type="error", job_id=job, seq=None, text=text))

    def unsubscribe(self, job: str) -> None:
        """Stop watching *job*."""
        self._hub.leave(job, self)
        self._held.pop(job, None)
        self._versions.pop(job, None)

    def leave(self) -> None:
        """Stop watching everything."""
        for job in tuple(self._held):
            self.unsubscribe(job)

    def end(self) -> None:
        """Make `take` return None from now on, whatever is still queued."""
        self._is_over = True
        self._queue.clear()
        self._wake()

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait for `take`."""
        return bool(self._queue)

    async def take(self) -> Message | None:
        """Wait for the next message; None: the watcher reads too slowly, or must go."""
        while not self._queue and not self._is_over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return None if self._is_over else self._queue.pop(0)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outlet:
    """Sends a session's messages: at once while the client reads, else as it reads.

    Frames go to the transport whole, as aiohttp's own do, so that none is torn apart
    by its pings. Only public names of aiohttp are used.
    """

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.WriteTransport
    ) -> None:
        self._socket, self._transport = socket, transport
        self._draining: asyncio.Task[None] | None = None
        self.session: Session | None = None

    def offer(self, message: Message) -> bool:
        """Send *message* now if the client keeps up; else let it wait, and drain."""
        if self._socket.closed or self._transport.is_closing():
            return True  # to nobody
        if self._transport.get_write_buffer_size() <= MAX_BUFFERED:
            self._transport.write(frame(message.text))
            return True
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="ws-drain")
        return False

    async def _drain(self) -> None:
        """Send what waits in the session; cut off a client that takes nothing."""
        session = self.session
        if session is None:
            return
        try:
            while (message := await session.take()) is not None:
                async with asyncio.timeout(SEND_S):
                    await self._socket.send_str(message.text)
                if not session.has_waiting:
                    return
            async with asyncio.timeout(SEND_S):
                await self._socket.close(
                    code=WSCloseCode.TRY_AGAIN_LATER, message=b"reading too slowly"
                )
        except (TimeoutError, ConnectionError):
            # It reads nothing: only breaking the connection wakes who listens to it.
            self._transport.abort()
        finally:
            self._draining = None

    async def close(self) -> None:
        """Send nothing more."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.wait([self._draining])


@lru_cache(maxsize=64)
def frame(text: str) -> bytes:
    """Return *text* as an unmasked WebSocket frame (RFC 6455 section 5.2)."""
    data = text.encode()
    size = len(data)
    if size < LENGTH_IN_2:
        return bytes((TEXT_FRAME, size)) + data
    if size < 1 << 16:
        return bytes((TEXT_FRAME, LENGTH_IN_2)) + size.to_bytes(2) + data
    return bytes((TEXT_FRAME, LENGTH_IN_8)) + size.to_bytes(8) + data


async def socket(request: web.Request) -> web.WebSocketResponse:
    """Serve one socket until either side closes it."""
    require(request, READ)
    runtime = request.app[runtime_key]
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise UpgradeRequired
    if len(runtime.sockets) >= runtime.settings.max_sockets:
        raise TooManyConnections("this server has as many WebSockets as it takes")
    answer = web.WebSocketResponse(
        heartbeat=PING_S, max_msg_size=MAX_MESSAGE, compress=False
    )
    await answer.prepare(request)
    transport = request.transport
    if transport is None:
        return answer  # the client has gone already
    outlet = Outlet(answer, transport)
    session = Session(runtime, request.get(reach_key), outlet.offer)
    outlet.session = session
    runtime.sockets.add(answer)
    try:
        for job in request.query.getall("job", []):
            await session.subscribe(job)
        await _listen(answer, session)
    finally:
        session.leave()
        runtime.sockets.discard(answer)
        await outlet.close()
    return answer


async def _listen(answer: web.WebSocketResponse, session: Session) -> None:
    async for message in answer:
        if message.type is not WSMsgType.TEXT:
            await answer.close(
                code=WSCloseCode.UNSUPPORTED_DATA, message=b"send JSON text"
            )
            return
        try:
            wish = _wish.decode(message.data)
        except msgspec.DecodeError:
            text = b'send {"subscribe": ["ID"]} or {"unsubscribe": ["ID"]}'
            await answer.close(code=WSCloseCode.INVALID_TEXT, message=text)
            return
        for job in wish.unsubscribe[:MAX_JOBS]:
            session.unsubscribe(job)
        for job in wish.subscribe[: MAX_JOBS + 1]:
            await session.subscribe(job)
