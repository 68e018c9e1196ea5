"""Progress over a WebSocket.

Messages are JSON text with `type` and `jobId`. Per job: first `snapshot` with all that
`GET /status` shows, then `step` with `seq` above the snapshot's, unnumbered `progress`,
last `job.completed`, `job.failed`, `job.rejected`, `job.cancelled` or `job.deleted`.
A client subscribes at connect (`/ws?job=ID`, repeatable) or later by
`{"subscribe": ["ID"]}`, and leaves by `{"unsubscribe": ["ID"]}`.
`alive`, which belongs to no job, comes every 15 seconds.

This module says 101; from then on the connection belongs to `asyncflow.web.wire`, and
what is sent to `asyncflow.web.sessions`.
"""

import base64
import hashlib
from typing import Final

from aiohttp import hdrs, web

from asyncflow.errors import MalformedRequest, TooManyConnections, UpgradeRequired
from asyncflow.web.auth import READ, require
from asyncflow.web.keys import runtime_key
from asyncflow.web.owners import reach_key
from asyncflow.web.sessions import MAX_JOBS, Session
from asyncflow.web.wire import Pulse, Wire, take_over

#: what makes an accepted key (RFC 6455 section 1.3)
_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

pulse_key: Final = web.AppKey("pulse", Pulse)


def add_routes(app: web.Application) -> None:
    """Add the socket to *app*."""
    app[pulse_key] = Pulse()
    app.router.add_get("/ws", socket)


async def socket(request: web.Request) -> web.StreamResponse:
    """Open a socket; it lives on when the request is over."""
    require(request, READ)
    runtime = request.app[runtime_key]
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise UpgradeRequired
    if len(runtime.sockets) >= runtime.settings.max_sockets:
        raise TooManyConnections("this server has as many WebSockets as it takes")
    # aiohttp knows best which requests it has stopped to parse behind
    if not web.WebSocketResponse().can_prepare(request):
        raise MalformedRequest
    answer = web.StreamResponse(
        status=101,
        headers={
            hdrs.UPGRADE: "websocket",
            hdrs.CONNECTION: "upgrade",
            hdrs.SEC_WEBSOCKET_ACCEPT: accept(request.headers[hdrs.SEC_WEBSOCKET_KEY]),
        },
    )
    answer.force_close()
    await answer.prepare(request)
    await answer.write_eof()
    session = Session(runtime, request.get(reach_key))
    wire = Wire(session, runtime.sockets, request.app[pulse_key])
    jobs = request.query.getall("job", [])[: MAX_JOBS + 1]
    take_over(request, wire, jobs)
    return answer


def accept(key: str) -> str:
    """Return what proves that the handshake with *key* was understood."""
    digest = hashlib.sha1(key.encode() + _SALT, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
