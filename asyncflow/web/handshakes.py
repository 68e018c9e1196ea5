"""Listens for TLS connections and bounds those that have not said hello.

Theory of operation
-------------------
asyncio shows a connection only when its handshake is over, so no limit on connections
sees those that never begin one: each would hold a descriptor until its time is over.
Here they are accepted one by one. As many may be in their handshakes as there are free
seats, and a few more to be told that there is none; beyond that the newcomer takes the
place of the oldest. Who means well is done with it long before it is the oldest.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from asyncflow.web.limits import MAX_REFUSED, Seats

#: how long no connection is accepted after a failure
PAUSE_S: Final = 1.0

log = structlog.get_logger(__name__)


async def bind(host: str | None, port: int | None, backlog: int) -> list[socket.socket]:
    """Return listening sockets, one for each address of *host* (None: all)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host or None, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            sockets.append(
                socket.create_server(address, family=family, backlog=backlog)
            )
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class Entrance:
    """Takes connections from *sockets*, which listen, through their handshakes."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[], asyncio.BaseProtocol],
        *,
        seats: Seats,
        context: ssl.SSLContext,
        handshake_s: float,
    ) -> None:
        self.sockets = tuple(sockets)
        self._make = make
        self._seats = seats
        self._context = context
        self._handshake_s = handshake_s
        #: connections in their handshakes, the oldest first
        self._pending: dict[asyncio.Task[None], socket.socket] = {}
        self._accepting = [self._begin(sock) for sock in sockets]

    def _begin(self, sock: socket.socket) -> asyncio.Task[None]:
        sock.settimeout(0.0)
        task = asyncio.create_task(self._accept(sock), name="accept")
        # not before: the loop may still watch it
        task.add_done_callback(lambda _done: sock.close())
        return task

    def close(self) -> None:
        """Accept nothing more; handshakes go on."""
        for task in self._accepting:
            task.cancel()

    async def drop(self) -> None:
        """End the handshakes too."""
        tasks = [*self._accepting, *self._pending]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _address = await loop.sock_accept(listening)
                self._welcome(connection)
            except ConnectionAbortedError:
                pass  # the client has gone already
            except OSError as error:
                # no descriptor is left, say
                log.warning("accept.failed", error=error.strerror)
                await asyncio.sleep(PAUSE_S)
            except Exception:  # a bug about one connection must not end the listening
                log.exception("accept.failed")
                await asyncio.sleep(PAUSE_S)
            # the loop does not wait for a connection that is there
            await asyncio.sleep(0)

    def _welcome(self, connection: socket.socket) -> None:
        seats = self._seats
        refusals = min(MAX_REFUSED, seats.limit) - seats.refused
        free = seats.limit - seats.taken + refusals
        if len(self._pending) >= free:
            oldest = next(iter(self._pending), None)
            if oldest is None:
                connection.close()
                return
            del self._pending[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._shake_hands(connection), name="handshake")
        self._pending[task] = connection
        task.add_done_callback(lambda done: self._shaken(done, connection))

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(
            self._make,
            connection,
            ssl=self._context,
            ssl_handshake_timeout=self._handshake_s,
        )

    def _shaken(self, done: asyncio.Task[None], connection: socket.socket) -> None:
        self._pending.pop(done, None)
        if done.cancelled():
            # perhaps before it had begun
            connection.close()
        elif (error := done.exception()) is not None:
            log.debug("handshake.failed", error=type(error).__name__)
