"""Chunks, as the tests of the chunk API send them."""

import base64
import json
from collections.abc import Mapping

from tests.server_process import Answer, ServerProcess
from tests.web.live import (
    Header,
    Line,
)

DATA = b"numbered pieces of one and the same text\n" * 300
SIZE = 2000
PIECES = [DATA[i : i + SIZE] for i in range(0, len(DATA), SIZE)]
LAST = len(PIECES) - 1


def chunk_form(
    data: bytes, fields: Mapping[str, object], *, first: str = ""
) -> tuple[Header, bytes]:
    parts = {
        name: f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    }
    parts["chunk"] = (
        b'Content-Disposition: form-data; name="chunk"; filename="blob"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + data
    )
    names = sorted(parts, key=lambda name: name != first)
    body = b"".join(b"--edge\r\n" + parts[name] + b"\r\n" for name in names)
    kind = ("Content-Type", "multipart/form-data; boundary=edge")
    return kind, body + b"--edge--\r\n"


def send(
    server: ServerProcess,
    index: int,
    data: bytes | None = None,
    *headers: Header,
    total: int = LAST + 1,
    first: str = "",
    **fields: object,
) -> Answer:
    """Send a chunk as a form."""
    piece = PIECES[index] if data is None else data
    said = {"chunkIndex": index, "totalChunks": total, **fields}
    kind, body = chunk_form(piece, said, first=first)
    with Line(server) as line:
        return line.ask("POST", "/upload/chunked", kind, *headers, body=body)


def send_json(server: ServerProcess, **members: object) -> Answer:
    kind = ("Content-Type", "application/json")
    with Line(server) as line:
        body = json.dumps(members).encode()
        return line.ask("POST", "/upload/chunked", kind, body=body)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def original(server: ServerProcess, job: str) -> bytes:
    assert server.finished(job)["status"] == "COMPLETED"
    return server.request("GET", f"/jobs/{job}/files/original").body
