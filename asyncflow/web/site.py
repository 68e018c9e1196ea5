"""A listening server: an application behind the limits on its connections."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.streams import StreamReader

from asyncflow.errors import StartError
from asyncflow.web.expecting import put_aside
from asyncflow.web.front import BODY_BYTES, Front
from asyncflow.web.handshakes import Entrance, bind
from asyncflow.web.limits import ConnectionLimits, GuardedHandler, Seats


class Site:
    """A listening server; made by `start_site`."""

    def __init__(
        self,
        runner: web.AppRunner,
        listener: asyncio.Server | Entrance,
        seats: Seats,
    ) -> None:
        self._runner = runner
        self._listener = listener
        self._seats = seats
        names = [sock.getsockname() for sock in listener.sockets]
        #: host and port of each listening socket
        self.addresses = tuple((str(name[0]), int(name[1])) for name in names)

    @property
    def port(self) -> int:
        """The port that was bound (of the first socket)."""
        return self.addresses[0][1]

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._seats.taken

    def stop_listening(self) -> None:
        """Take no new connections; those that are open go on."""
        self._listener.close()

    async def close(self) -> None:
        """Stop listening, let running requests end within the grace period, close."""
        self._listener.close()
        if isinstance(self._listener, Entrance):
            await self._listener.drop()
        await self._runner.cleanup()


async def start_site(
    app: web.Application,
    *,
    host: str | None = None,
    port: int | None = None,
    sock: socket.socket | None = None,
    limits: ConnectionLimits | None = None,
    grace_s: float = 30.0,
    ssl_context: ssl.SSLContext | None = None,
    backlog: int = 1024,
    handler: type[GuardedHandler] = GuardedHandler,
) -> Site:
    """Start *app* behind the limits, on *host* and *port* or on a bound *sock*.

    Raise StartError when aiohttp is not one that the limits can work on, OSError when
    the address cannot be bound.
    """
    limits = limits or ConnectionLimits()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=grace_s)
    await runner.setup()
    seats = Seats(limits.max_connections)
    make = _factory(runner, limits=limits, seats=seats, handler=handler)
    try:
        check_aiohttp(make())
        buffer = memoryview(bytearray(BODY_BYTES))

        def front() -> Front:
            return Front(make(), buffer)

        listener: asyncio.Server | Entrance
        if ssl_context is not None:
            if sock is not None:
                sock.listen(backlog)
            listener = Entrance(
                await bind(host, port, backlog) if sock is None else [sock],
                front,
                seats=seats,
                context=ssl_context,
                handshake_s=limits.head_timeout_s,
            )
        else:
            where: dict[str, Any] = (
                {"sock": sock} if sock is not None else {"host": host, "port": port}
            )
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(front, backlog=backlog, **where)
    except BaseException:
        await runner.cleanup()
        raise
    return Site(runner, listener, seats)


def _factory(
    runner: web.AppRunner,
    *,
    limits: ConnectionLimits,
    seats: Seats,
    handler: type[GuardedHandler],
) -> Callable[[], GuardedHandler]:
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    server.request_factory = put_aside(server.request_factory)
    loop = asyncio.get_running_loop()
    return lambda: handler(
        server,
        limits=limits,
        seats=seats,
        loop=loop,
        access_log=None,
        keepalive_timeout=limits.idle_timeout_s,
        # the closing sequence is ours, see `_linger`
        lingering_time=0.0,
        auto_decompress=False,
        max_line_size=limits.max_line_bytes,
        max_field_size=limits.max_field_bytes,
        max_headers=limits.max_fields,
    )


#: what the limits need of aiohttp beside its public interface
_PRIVATE_OF_HANDLER: Final = (
    "_buffer_paused",
    "_loop",
    "_max_msg_queue_size",
    "_messages",
    "_payload_parser",
    "_request_count",
    "_upgraded",
    "_waiter",
)
_PRIVATE_OF_STREAM: Final = ("_read_nowait", "_buffer")


def check_aiohttp(handler: object, stream: object = StreamReader) -> None:
    """Raise StartError if this release of aiohttp lacks what the limits build on."""
    missing = [name for name in _PRIVATE_OF_HANDLER if not hasattr(handler, name)]
    missing += [name for name in _PRIVATE_OF_STREAM if not hasattr(stream, name)]
    if missing:
        raise StartError(
            f"this release of aiohttp has no {', '.join(missing)}: the limits on "
            "connections cannot work; install the release that asyncflow names"
        )
