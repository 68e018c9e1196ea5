"""Progress as server-sent events (https://html.spec.whatwg.org/#server-sent-events).

`GET /jobs/{id}/events` sends the messages that `asyncflow.web.progress` describes: each
as the `data:` of an event without a name, with `id:` where it has a `seq`.

Rules
-----
- Every connection begins with a snapshot, so that nothing is missed. `Last-Event-ID` is
  needed for one thing only: who has heard the end already is answered 204, the one
  status at which an `EventSource` stops connecting again.
- The stream ends after the message that ends the job.
- It counts as a socket: the same limit, the same farewell when the server stops.
- A comment goes out when nothing else does, so that proxies keep the connection, a
  client that has gone is noticed, and one that hears nothing any more knows it.
"""

import asyncio
import re
from typing import Final

from aiohttp import hdrs, web

from asyncflow.errors import TooManyConnections
from asyncflow.progress import Message
from asyncflow.web.auth import READ, require
from asyncflow.web.jobs import job_id
from asyncflow.web.keys import runtime_key
from asyncflow.web.sessions import Session
from asyncflow.web.wire import BEAT_S, SEND_S

HEARTBEAT: Final = b":\n\n"
HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    # a proxy that buffers would hold progress back until the end
    "X-Accel-Buffering": "no",
}


def add_routes(app: web.Application) -> None:
    """Add the event stream to *app*."""
    app.router.add_get("/jobs/{id}/events", events, allow_head=False)


class Stream:
    """An open event stream, as stopping the server needs to know it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def close(self, *, code: int, message: bytes) -> None:  # noqa: ARG002 -- a stream has no words for a reason
        """End the stream; its client connects again, elsewhere or later."""
        self._session.end()


async def events(request: web.Request) -> web.StreamResponse:
    """Tell the progress of one job until it is over or the client has gone."""
    require(request, READ)
    runtime = request.app[runtime_key]
    job = job_id(request)
    if len(runtime.sockets) >= runtime.settings.max_sockets:
        raise TooManyConnections("this server has as many event streams as it takes")
    # an unknown job is refused here, while an answer can still say so
    view = await runtime.status(job)
    if view.status.is_final and _heard(request) == view.version:
        return web.Response(status=204)
    answer = web.StreamResponse(headers=HEADERS)
    session = Session(runtime)
    stream = Stream(session)
    runtime.sockets.add(stream)
    try:
        await answer.prepare(request)
        await session.subscribe(job)
        await _send(answer, session)
    except TimeoutError:
        # it reads nothing: an orderly end would wait for it as well
        if request.transport is not None:
            request.transport.abort()
    finally:
        session.leave()
        runtime.sockets.discard(stream)
    return answer


def _heard(request: web.Request) -> int | None:
    """Return the number of the last message that the client has had."""
    text = request.headers.get("Last-Event-ID", "")
    # what is no number of ours is no number: the snapshot comes all the same
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


async def _send(answer: web.StreamResponse, session: Session) -> None:
    while True:
        try:
            async with asyncio.timeout(BEAT_S):
                message = await session.take()
        except TimeoutError:
            await _write(answer, HEARTBEAT)
            continue
        if message is None:
            return
        await _write(answer, encode(message))
        if message.is_last or message.type == "error":
            return


async def _write(answer: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(SEND_S):
        await answer.write(data)


def encode(message: Message) -> bytes:
    """Return *message* as an event; its JSON text has no line breaks."""
    number = "" if message.seq is None else f"id: {message.seq}\n"
    return f"{number}data: {message.text}\n\n".encode()
