import errno
import inspect
import json
import os

import pytest
import structlog
from aiohttp import web

from asyncflow import errors
from asyncflow.errors import AsyncflowError
from asyncflow.web.errors import (
    CLIENT_CLOSED,
    NOT_HTTP,
    STATUS,
    document,
    problems,
    status_of,
)
from asyncflow.web.requestids import named
from tests.web.wire import Dial, Serve, Wire, until

CLASSES = [
    one
    for _, one in inspect.getmembers(errors, inspect.isclass)
    if issubclass(one, AsyncflowError) and not issubclass(one, NOT_HTTP)
]


def raising_app(error: BaseException, *, after: bytes = b"") -> web.Application:
    async def route(request: web.Request) -> web.StreamResponse:
        if after:
            response = web.StreamResponse()
            response.content_length = 1000
            await response.prepare(request)
            await response.write(after)
        raise error

    app = web.Application(middlewares=[named(lambda: "made-id"), problems()])
    app.router.add_get("/", route)
    app.router.add_post("/", route)
    return app


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_that_can_reach_http_has_a_status(
    kind: type[AsyncflowError],
) -> None:
    assert kind in STATUS


def test_the_table_names_no_class_twice_nor_one_that_never_reaches_http() -> None:
    assert not [kind for kind in STATUS if issubclass(kind, NOT_HTTP)]
    assert set(STATUS) == set(CLASSES)


def test_faults_of_the_client_are_4xx_and_ours_are_5xx() -> None:
    ours = {errors.TooManyConnections, errors.BlobNotFound}
    # HTTP has these where a client asks for what no server of this kind does
    ours |= {errors.UnsupportedTransferCoding, errors.UnsupportedHttpVersion}
    for kind in set(STATUS) - ours:
        first = 4 if kind.fault == "client" else 5
        assert STATUS[kind] // 100 == first, kind


def test_an_error_of_somebody_else_has_the_status_of_its_nearest_ancestor() -> None:
    class Odd(errors.OffsetMismatch):
        pass

    assert status_of(Odd) == 409


async def test_a_refusal_is_a_problem_document(serve: Serve, dial: Dial) -> None:
    error = errors.OffsetMismatch(expected=7, received=9)
    wire = await dial(await serve(raising_app(error)))
    answer = await wire.ask("GET / HTTP/1.1")
    assert answer.status == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.problem == {
        "type": "https://iana.org/assignments/http-problem-types"
        "#mismatching-upload-offset",
        "title": "Mismatching Upload Offset",
        "status": 409,
        "detail": "the upload is at offset 7, not 9",
        "code": "offset_mismatch",
        "expected-offset": 7,
        "provided-offset": 9,
        "requestId": "made-id",
    }


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_what_the_server_lacks_for_now_is_no_fault(
    serve: Serve, dial: Dial, code: int
) -> None:
    error = OSError(code, os.strerror(code))
    wire = await dial(await serve(raising_app(error)))
    answer = await wire.ask("GET / HTTP/1.1")
    assert (answer.status, answer.code) == (503, "busy")
    assert answer.headers["retry-after"] == "5"


def test_extra_members_cannot_replace_those_of_the_standard() -> None:
    body = document(
        status=400, code="c", detail="d", request_id=None, extra={"status": 200, "x": 1}
    )
    assert json.loads(body)["status"] == 400
    assert json.loads(body)["x"] == 1


@pytest.mark.parametrize(
    ("error", "field", "value"),
    [
        (errors.Unauthorized(), "www-authenticate", 'Bearer realm="asyncflow"'),
        (errors.BacklogFull(), "retry-after", "5"),
        (errors.DiskFull(), "retry-after", "60"),
        (errors.RangeNotSatisfiable(10), "content-range", "bytes */10"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_brings_the_header_that_http_wants(
    serve: Serve, dial: Dial, error: AsyncflowError, field: str, value: str
) -> None:
    wire = await dial(await serve(raising_app(error)))
    assert (await wire.ask("GET / HTTP/1.1")).headers[field] == value


async def test_what_nobody_raised_on_purpose_is_500_and_tells_nothing(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(raising_app(KeyError("s3cr3t"))))
    with structlog.testing.capture_logs() as logs:
        answer = await wire.ask("GET / HTTP/1.1")
    assert (answer.status, answer.code) == (500, "internal")
    assert answer.problem["requestId"] == "made-id"
    assert b"s3cr3t" not in answer.body
    assert b"KeyError" not in answer.body
    (line,) = logs
    assert line["event"] == "http.unexpected"
    assert isinstance(line["exc_info"], KeyError)


async def test_a_fault_of_the_store_is_500_and_tells_no_path(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(raising_app(errors.StoreError("/data/raw/x"))))
    with structlog.testing.capture_logs() as logs:
        answer = await wire.ask("GET / HTTP/1.1")
    assert (answer.status, answer.code) == (500, "store")
    assert b"/data" not in answer.body
    assert logs


async def test_a_refusal_on_purpose_is_no_alert(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(raising_app(errors.BacklogFull())))
    with structlog.testing.capture_logs() as logs:
        assert (await wire.ask("GET / HTTP/1.1")).status == 503
    assert logs == []


async def test_head_gets_the_headers_of_a_problem_and_no_body(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(raising_app(errors.JobNotFound())))
    head = await wire.ask("HEAD / HTTP/1.1")
    full = await wire.ask("GET / HTTP/1.1")
    assert head.status == full.status == 404
    assert head.headers["content-length"] == full.headers["content-length"]
    assert full.code == "job_not_found"


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("GET /nowhere HTTP/1.1", 404, "not_found"),
        ("DELETE / HTTP/1.1", 405, "method_not_allowed"),
    ],
)
async def test_what_aiohttp_refuses_has_the_same_shape(
    serve: Serve, dial: Dial, line: str, status: int, code: str
) -> None:
    wire = await dial(await serve(raising_app(errors.NotFound())))
    answer = await wire.ask(line)
    assert (answer.status, answer.code) == (status, code)
    if status == 405:
        assert answer.headers["allow"] == "GET,HEAD,POST"


async def test_another_refusal_of_aiohttp_keeps_its_status(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(raising_app(web.HTTPUnprocessableEntity())))
    answer = await wire.ask("GET / HTTP/1.1")
    assert answer.status == 422
    assert answer.code.startswith("unprocessable")


async def test_a_redirect_is_no_problem(serve: Serve, dial: Dial) -> None:
    wire = await dial(await serve(raising_app(web.HTTPFound("/elsewhere"))))
    answer = await wire.ask("GET / HTTP/1.1")
    assert (answer.status, answer.headers["location"]) == (302, "/elsewhere")


async def test_a_fault_in_the_middle_of_an_answer_breaks_the_connection(
    serve: Serve, dial: Dial
) -> None:
    wire = await dial(await serve(raising_app(ValueError("x"), after=b"begun")))
    await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with structlog.testing.capture_logs() as logs:
        everything = await wire.rest()
    assert everything.endswith(b"\r\n\r\nbegun")
    assert [line["event"] for line in logs] == ["http.unexpected"]


async def test_a_client_that_went_away_is_no_error(serve: Serve, dial: Dial) -> None:
    statuses: list[int] = []

    @web.middleware
    async def watch(request: web.Request, handler: object) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)  # type: ignore[operator]
        statuses.append(response.status)
        return response

    async def route(request: web.Request) -> web.StreamResponse:
        await until(lambda: request.transport is None)
        raise ConnectionResetError("gone")

    app = web.Application(middlewares=[watch, problems()])
    app.router.add_get("/", route)
    wire = await dial(await serve(app))
    with structlog.testing.capture_logs() as logs:
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.reset()
        await until(lambda: bool(statuses))
    assert statuses == [CLIENT_CLOSED]
    assert logs == []


async def test_a_broken_connection_to_somebody_else_is_an_error(
    serve: Serve, dial: Dial
) -> None:
    wire: Wire = await dial(await serve(raising_app(ConnectionResetError("store"))))
    with structlog.testing.capture_logs() as logs:
        assert (await wire.ask("GET / HTTP/1.1")).code == "internal"
    assert len(logs) == 1
