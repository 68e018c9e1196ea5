"""Uploads from a process of their own, as cheap for the sender as they can be.

`python -m bench.sender` reads an `Order` as JSON from standard input and prints a
`Sent`. Each client is a thread with one blocking connection; bodies leave by sendfile,
so that the sender is not what is measured: `busy` tells how near it came.
"""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import msgspec

from bench.machine import pinned

_PIECE: Final = 1 << 20
_SMALL_PIECE: Final = 4 << 10
_BOUNDARY: Final = "----a-boundary-that-no-file-holds"
_STACK_BYTES: Final = 256 << 10
_TIMEOUT_S: Final = 120


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """*clients* at once send the file *path* *each* times.

    *kind*: `tus` (create, then PATCH), `put` or `form`; *base* is where to;
    *bytes_per_s*: in small pieces at this pace, as a network brings them.
    """

    port: int
    path: str
    kind: str
    base: str = "/files/"
    clients: int = 1
    each: int = 1
    tls: bool = False
    bytes_per_s: float | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of each upload; how busy the sender's core was (1: all the time)."""

    ms: list[float]
    seconds: float
    busy: float
    jobs: list[str]


def run(order: Order, *, cores: list[int]) -> Sent:
    """Carry out *order* in a process on *cores*; return what it measured."""
    with pinned(cores):
        done = subprocess.run(
            [sys.executable, "-m", "bench.sender"],
            input=msgspec.json.encode(order),
            stdout=subprocess.PIPE,
            check=True,
            timeout=600,
        )
    return msgspec.json.decode(done.stdout, type=Sent)


class _Client:
    """One connection that uploads the file again and again."""

    def __init__(self, order: Order, number: int) -> None:
        self._order = order
        self._number = number
        self._file = os.open(order.path, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size
        self.ms: list[float] = []
        self.jobs: list[str] = []
        self._line = _connect(order)

    def go(self) -> None:
        send = {"tus": self._tus, "put": self._put, "form": self._form}
        for turn in range(self._order.each):
            began = time.perf_counter()
            send[self._order.kind](turn)
            self.ms.append((time.perf_counter() - began) * 1000)
        self._line.close()
        os.close(self._file)

    def _tus(self, _turn: int) -> None:
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(self._size)}
        self._line.request("POST", self._order.base, headers=headers)
        answer = self._answer(201)
        here = urljoin(f"http://x{self._order.base}", answer.location)
        path = urlsplit(here).path
        self._head(
            "PATCH",
            path,
            self._size,
            {
                "Tus-Resumable": "1.0.0",
                "Upload-Offset": "0",
                "Content-Type": "application/offset+octet-stream",
            },
        )
        self._body()
        self._answer(204)
        self.jobs.append(path.rpartition("/")[2])

    def _put(self, turn: int) -> None:
        path = f"{self._order.base}{self._number}-{turn}.bin"
        self._head("PUT", path, self._size, {})
        self._body()
        self._answer(201, 202, 204)

    def _form(self, _turn: int) -> None:
        before = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '
            'filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        ).encode()
        after = f"\r\n--{_BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        size = len(before) + self._size + len(after)
        self._head("POST", self._order.base, size, {"Content-Type": kind})
        self._line.send(before)
        self._body()
        self._line.send(after)
        answer = self._answer(202)
        self.jobs.append(str(json.loads(answer.body)["jobId"]))

    def _head(
        self, method: str, path: str, length: int, headers: dict[str, str]
    ) -> None:
        self._line.putrequest(method, path)
        self._line.putheader("Content-Length", str(length))
        for name, text in headers.items():
            self._line.putheader(name, text)
        self._line.endheaders()

    def _body(self) -> None:
        if self._order.bytes_per_s is not None:
            self._paced_body(self._order.bytes_per_s)
            return
        sock = self._line.sock
        at = 0
        while at < self._size:
            if isinstance(sock, ssl.SSLSocket):
                piece = os.pread(self._file, _PIECE, at)
                sock.sendall(piece)
                at += len(piece)
            else:
                at += _sendfile(sock, self._file, at, self._size - at)

    def _paced_body(self, bytes_per_s: float) -> None:
        began = time.perf_counter()
        for at in range(0, self._size, _SMALL_PIECE):
            late = began + at / bytes_per_s - time.perf_counter()
            time.sleep(max(0.0, late))
            self._line.sock.sendall(os.pread(self._file, _SMALL_PIECE, at))

    def _answer(self, *wanted: int) -> "_Answer":
        found = self._line.getresponse()
        body = found.read()
        if found.status not in wanted:
            raise RuntimeError(f"{found.status}: {body[:300]!r}")
        return _Answer(location=found.headers.get("Location", ""), body=body)


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    location: str
    body: bytes


def _connect(order: Order) -> http.client.HTTPConnection:
    where = ("127.0.0.1", order.port)
    if not order.tls:
        line = http.client.HTTPConnection(*where, timeout=_TIMEOUT_S)
    else:
        # the certificate was made a moment ago for this very run
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        line = http.client.HTTPSConnection(*where, context=trusting, timeout=_TIMEOUT_S)
    line.connect()
    line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def _sendfile(sock: socket.socket, file: int, at: int, count: int) -> int:
    # a socket with a timeout is non-blocking underneath: blocking is cheaper
    sock.settimeout(None)
    return os.sendfile(sock.fileno(), file, at, count)


def main() -> None:
    """Carry out the order on standard input."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    threading.stack_size(_STACK_BYTES)
    Path(order.path).stat()
    clients = [_Client(order, number) for number in range(order.clients)]
    threads = [threading.Thread(target=client.go) for client in clients]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    sent = Sent(
        ms=[ms for client in clients for ms in client.ms],
        seconds=seconds,
        busy=(time.process_time() - cpu) / seconds,
        jobs=[job for client in clients for job in client.jobs],
    )
    if len(sent.ms) != order.clients * order.each:
        raise SystemExit("not every upload succeeded; what failed is above")
    sys.stdout.buffer.write(msgspec.json.encode(sent))


if __name__ == "__main__":
    main()
