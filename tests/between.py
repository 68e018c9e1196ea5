"""What may stand between a client and a server: it passes on all but what it swallows.

Much that filters traffic does so with what it does not know: it takes the request,
answers nothing, and keeps the connection.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_PIECE = 1 << 16
_NOTHING = "$^"
_KEEP = re.compile(rb"\r\nconnection: keep-alive", re.IGNORECASE)
_UPGRADE = re.compile(rb"\r\nupgrade: websocket", re.IGNORECASE)


@dataclass
class Between:
    """One that listens, in front of a server on *port* of this machine.

    Requests whose path matches *swallow* get no answer; of sockets that match *mute*
    the handshake passes and nothing that the server says after it. After `forget` it
    passes nothing on any more for who was connected then, and tells nobody.
    """

    port: int
    swallow: str = _NOTHING
    mute: str = _NOTHING
    url: str = ""
    #: the paths that were swallowed or muted
    met: list[str] = field(default_factory=list)
    #: the connections that are being carried, and what they asked for
    carried: dict[socket.socket, str] = field(default_factory=dict)
    _forgotten: set[socket.socket] = field(default_factory=set)
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to listen."""
        ear = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{ear.getsockname()[1]}"
        self._open.append(ear)
        self._go(self._listen, ear)

    def stop(self) -> None:
        """Hang up on everybody."""
        # the list grows while a connection is being made
        while self._threads:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._threads.pop().join(10)
        for one in self._open:
            one.close()

    def forget(self) -> None:
        """Know nothing any more of who is connected, as a router that was restarted."""
        self._forgotten.update(self.carried)

    def _go(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _listen(self, ear: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = ear.accept()
                self._open.append(client)
                self._go(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        """Carry one request, or one socket."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = _received(client)
            if not piece:
                return
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        if re.search(self.swallow, path):
            self.met.append(path)
            return
        is_socket = _UPGRADE.search(head) is not None
        if not is_socket:
            # so that every request shows its path
            head = _KEEP.sub(b"", head) + b"\r\nConnection: close"
        server = socket.create_connection(("127.0.0.1", self.port))
        self._open.append(server)
        server.sendall(head + b"\r\n\r\n" + body)
        is_mute = is_socket and re.search(self.mute, path) is not None
        if is_mute:
            self.met.append(path)
        self.carried[client] = path
        self._go(self._pass_on, client, client, server)
        self._pass_on(client, server, client, only_head=is_mute)
        self.carried.pop(client)

    def _pass_on(
        self,
        client: socket.socket,
        source: socket.socket,
        target: socket.socket,
        *,
        only_head: bool = False,
    ) -> None:
        is_mute = False
        while piece := _received(source):
            if is_mute or client in self._forgotten:
                continue
            if only_head and b"\r\n\r\n" in piece:
                piece, is_mute = piece[: piece.index(b"\r\n\r\n") + 4], True
            try:
                target.sendall(piece)
            except OSError:
                break
        if client in self._forgotten:
            return
        # whoever waits for more hears that there is none
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _received(source: socket.socket) -> bytes:
    with suppress(OSError):
        return source.recv(_PIECE)
    return b""


@contextmanager
def between(
    port: int, *, swallow: str = _NOTHING, mute: str = _NOTHING
) -> Iterator[Between]:
    """Let something stand in front of a server for the length of a block."""
    one = Between(port, swallow, mute)
    one.start()
    try:
        yield one
    finally:
        one.stop()
