"""A small real server for tests of the client, with faults that can be ordered.

It speaks the part of the protocol that the client uses, keeps everything in memory, and
does what its `faults` say: break a connection after so many bytes, refuse, say nothing.
"""

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

PIECE = 1 << 16


@dataclass
class Stored:
    """One upload."""

    length: int
    name: str
    media_type: str | None
    data: bytearray = field(default_factory=bytearray)


@dataclass
class SmallServer:
    """Uploads, scripted jobs, files to download, and faults."""

    token: str | None = None
    uploads: dict[str, Stored] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: what a WebSocket of a job sends, one list per connection; then it closes
    scripts: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    #: the Content-Disposition of a file
    names: dict[str, str] = field(default_factory=dict)
    etag: str = '"one"'
    #: break the connection of a PATCH after so many bytes, one entry per PATCH
    cut_after: list[int] = field(default_factory=list)
    #: break a download after so many bytes, one entry per GET
    cut_downloads: list[int] = field(default_factory=list)
    #: send the first half of a download and wait for this, having said so by `halfway`
    hold_downloads: asyncio.Event | None = None
    halfway: asyncio.Event = field(default_factory=asyncio.Event)
    #: answer a range with so many bytes less than there are
    short_ranges: int = 0
    #: lose the answers to so many PATCHes, cancels and deletes: they were done
    lose_answers: int = 0
    #: lose the answers to so many creations: the uploads are there
    lose_creations: int = 0
    #: say by `created` that an upload was created, and answer never, so many times
    hold_creations: int = 0
    created: asyncio.Event = field(default_factory=asyncio.Event)
    #: Idempotency-Key -> upload
    keys: dict[str, str] = field(default_factory=dict)
    #: stop reading a PATCH after so many bytes and say so by `stalled`
    stall_after: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    #: answer so many requests with this before anything else
    refusals: list[web.HTTPException] = field(default_factory=list)
    #: do this when somebody asks whether we live
    on_livez: Callable[[], None] | None = None
    #: do this when a WebSocket is opened
    on_socket: Callable[[], None] | None = None
    sockets: bool = True
    #: keep a WebSocket open that has nothing more to say
    keep_sockets: bool = False
    received: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._first])
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._alive)
        app.router.add_post("/files/", self._create)
        app.router.add_head("/files/{id}", self._look)
        app.router.add_delete("/files/{id}", self._forget)
        app.router.add_patch("/files/{id}", self._append)
        app.router.add_get("/status/{id}", self._status)
        app.router.add_get("/jobs", self._list)
        app.router.add_post("/jobs/{id}/retry", self._retry)
        app.router.add_post("/jobs/{id}/cancel", self._cancel)
        app.router.add_delete("/jobs/{id}", self._delete)
        app.router.add_head("/jobs/{id}/files/{name}", self._call)
        app.router.add_get("/jobs/{id}/files/{name}", self._file, allow_head=False)
        app.router.add_get("/ws", self._socket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _first(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.refusals and request.path != "/livez":
            raise self.refusals.pop(0)
        wanted = None if self.token is None else f"Bearer {self.token}"
        if wanted is not None and request.headers.get("Authorization") != wanted:
            raise problem(web.HTTPUnauthorized, "unauthorized", "a token is needed")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _alive(self, _request: web.Request) -> web.Response:
        if self.on_livez is not None:
            self.on_livez()
        return web.Response(text="ok")

    async def _create(self, request: web.Request) -> web.Response:
        pairs = (
            one.split(" ") for one in request.headers["Upload-Metadata"].split(",")
        )
        said = {key: base64.b64decode(value).decode() for key, value in pairs}
        once = request.headers["Idempotency-Key"]
        if once not in self.keys:
            upload_id = f"job-{len(self.keys) + 1}"
            self.keys[once] = upload_id
            self.uploads[upload_id] = Stored(
                length=int(request.headers["Upload-Length"]),
                name=said["filename"],
                media_type=said.get("filetype"),
            )
        if self.lose_creations:
            self.lose_creations -= 1
            return _break(request)
        if self.hold_creations:
            self.hold_creations -= 1
            self.created.set()
            await asyncio.Event().wait()
        upload_id = self.keys[once]
        if upload_id not in self.uploads:
            raise problem(web.HTTPGone, "upload_gone", "It was here.")
        headers = {"Location": upload_id, **self._headers(upload_id)}
        return web.Response(status=201, headers=headers)

    def _headers(self, upload_id: str) -> dict[str, str]:
        offset = str(len(self.uploads[upload_id].data))
        return {"Upload-Offset": offset, "Asyncflow-Job-Id": upload_id}

    def _known(self, request: web.Request) -> str:
        upload_id = request.match_info["id"]
        if upload_id not in self.uploads:
            raise problem(
                web.HTTPNotFound, "upload_not_found", "No upload has this id."
            )
        return upload_id

    async def _look(self, request: web.Request) -> web.Response:
        return web.Response(headers=self._headers(self._known(request)))

    async def _forget(self, request: web.Request) -> web.Response:
        del self.uploads[self._known(request)]
        return web.Response(status=204)

    async def _append(self, request: web.Request) -> web.Response:
        upload_id = self._known(request)
        upload = self.uploads[upload_id]
        if int(request.headers["Upload-Offset"]) != len(upload.data):
            raise problem(web.HTTPConflict, "offset_mismatch", "another offset")
        limit = self.cut_after.pop(0) if self.cut_after else None
        got = 0
        while piece := await request.content.read(PIECE):
            taken = piece if limit is None else piece[: limit - got]
            upload.data += taken
            got += len(taken)
            self.received += len(taken)
            if limit is not None and got >= limit:
                return _break(request)
            if self.stall_after is not None and got >= self.stall_after:
                self.stalled.set()
                await asyncio.Event().wait()  # until the test is over
        if self.lose_answers:
            self.lose_answers -= 1
            return _break(request)
        if len(upload.data) == upload.length:
            self.jobs.setdefault(upload_id, job(upload_id, file_name=upload.name))
        return web.Response(status=204, headers=self._headers(upload_id))

    async def _status(self, request: web.Request) -> web.Response:
        found = self.jobs.get(request.match_info["id"])
        if found is None:
            raise problem(web.HTTPNotFound, "job_not_found", "No job has this id.")
        return web.json_response(found)

    async def _list(self, request: web.Request) -> web.Response:
        start = int(request.query.get("after", "0"))
        count = int(request.query.get("limit", "2"))
        wanted = request.query.get("state")
        every = [j for j in self.jobs.values() if wanted in {None, j["status"]}]
        end = start + count
        following = str(end) if end < len(every) else None
        return web.json_response({"jobs": every[start:end], "next": following})

    async def _retry(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        if job_id not in self.jobs:
            raise problem(web.HTTPNotFound, "job_not_found", "No job has this id.")
        if self.jobs[job_id]["status"] == "COMPLETED":
            raise problem(web.HTTPConflict, "job_not_retryable", "nothing to retry")
        self.retried.append(job_id)
        self.jobs[job_id]["status"] = "PROCESSING"
        return web.json_response(self.jobs[job_id], status=202)

    async def _cancel(self, request: web.Request) -> web.Response:
        found = self.jobs[request.match_info["id"]]
        is_open = found["status"] == "PROCESSING"
        if is_open:
            found["status"] = "CANCELLED"
        if self.lose_answers:
            self.lose_answers -= 1
            return _break(request)
        return web.json_response({"jobId": found["jobId"], "cancelled": is_open})

    async def _delete(self, request: web.Request) -> web.Response:
        if self.jobs.pop(request.match_info["id"], None) is None:
            raise problem(web.HTTPNotFound, "job_not_found", "No job has this id.")
        if self.lose_answers:
            self.lose_answers -= 1
            return _break(request)
        return web.Response(status=204)

    async def _call(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.files:
            raise problem(web.HTTPNotFound, "file_not_available", "no such file")
        told = self.names.get(name)
        said = {} if told is None else {"Content-Disposition": told}
        return web.Response(headers=said)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        data = self.files[request.match_info["name"]]
        self.ranges.append(request.headers.get("Range"))
        status, start, headers = 200, 0, {"ETag": self.etag}
        if request.headers.get("If-Range") == self.etag:
            status = 206
            start = int(request.headers["Range"].removeprefix("bytes=")[:-1])
            if start >= len(data):
                raise problem(web.HTTPRequestRangeNotSatisfiable, "range", "too far")
            total = len(data)
            data = data[: total - self.short_ranges]
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{total}"
        answer = web.StreamResponse(status=status, headers=headers)
        answer.content_length = len(data) - start
        await answer.prepare(request)
        if self.hold_downloads is not None:
            middle = (start + len(data)) // 2
            await answer.write(data[start:middle])
            start = middle
            self.halfway.set()
            await self.hold_downloads.wait()
        limit = self.cut_downloads.pop(0) if self.cut_downloads else None
        await answer.write(data[start:][:limit])
        return answer if limit is None else _break(request)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not self.sockets:
            raise problem(web.HTTPServiceUnavailable, "too_many_connections", "full")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        job_id = request.query["job"]
        if self.on_socket is not None:
            self.on_socket()
        scripts = self.scripts.get(job_id)
        if job_id not in self.jobs:
            # as the real server does: it says so and leaves the socket open
            await socket.send_json(
                {"type": "error", "jobId": job_id, "code": "job_not_found"}
            )
            await socket.receive()
        elif scripts is None:
            await socket.send_json(whole("snapshot", self.jobs[job_id]))
        else:
            for message in scripts.pop(0) if scripts else ():
                await socket.send_json(message)
            if self.keep_sockets:
                await socket.receive()
        await socket.close()
        return socket


def _break(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def problem(
    kind: type[web.HTTPException], code: str, detail: str, **headers: str
) -> web.HTTPException:
    """Return an answer as RFC 9457 has it."""
    body = {"type": "about:blank", "title": code, "code": code, "detail": detail}
    answer = web.json_response(body)
    assert answer.text is not None
    return kind(
        text=answer.text, content_type="application/problem+json", headers=headers
    )


def step(name: str, status: str, **more: Any) -> dict[str, Any]:
    """Return a step as the server writes it."""
    return {"name": name, "status": status, **more}


def job(job_id: str, status: str = "COMPLETED", **more: Any) -> dict[str, Any]:
    """Return a job as the server writes it, with a member nobody knows."""
    return {
        "jobId": job_id,
        "status": status,
        "fileName": more.pop("file_name", "photo.jpg"),
        "version": 1,
        "invented": [1],
        **more,
    }


def whole(kind: str, view: dict[str, Any]) -> dict[str, Any]:
    """Return a message that carries the whole job."""
    return {"type": kind, "jobId": view["jobId"], "seq": view["version"], "job": view}


@contextmanager
def running(server: SmallServer) -> Iterator[SmallServer]:
    """Run *server* on a thread of its own, for tests that run a whole program."""
    started, ended = threading.Event(), threading.Event()
    place: dict[str, Any] = {}

    async def serve() -> None:
        async with server:
            place["loop"], place["stop"] = asyncio.get_running_loop(), asyncio.Event()
            started.set()
            await place["stop"].wait()

    def whole_life() -> None:
        try:
            asyncio.run(serve())
        finally:
            started.set()
            ended.set()

    thread = threading.Thread(target=whole_life)
    thread.start()
    started.wait(10)
    try:
        yield server
    finally:
        place["loop"].call_soon_threadsafe(place["stop"].set)
        thread.join(10)
        assert ended.is_set()
