import asyncio
import json

import pytest
import structlog
from aiohttp import web

from asyncflow.errors import DiskFull
from asyncflow.metrics import MAX_VALUES, Metrics
from asyncflow.web.auth import TokenAuth
from asyncflow.web.edge import install_edge
from asyncflow.web.guards import Guards
from asyncflow.web.health import Capabilities, Check, ProcessorStatus, add_health
from tests.web.wire import Dial, Serve, Wire

CAN = Capabilities(
    version="1.2.3",
    protocols=("tus", "multipart"),
    limits={"maxUploadBytes": 5},
    types=("image/*",),
    processors=(
        ProcessorStatus(name="image", accepts=("image/*",)),
        ProcessorStatus(name="video", accepts=("video/*",), missing_tool="ffmpeg"),
    ),
)


async def fine() -> str | None:
    return None


async def slow() -> str | None:
    await asyncio.Event().wait()
    return None


async def bad() -> str | None:
    return "no worker could be started"


async def full() -> str | None:
    raise DiskFull


async def broken() -> str | None:
    raise KeyError("s3cr3t")


def whole_app(metrics: Metrics, **checks: Check) -> web.Application:
    app = web.Application()
    install_edge(
        app,
        guards=Guards(loopback_only=True),
        authenticate=TokenAuth("t" * 20, open_locally=False),
        metrics=metrics,
    )
    add_health(
        app,
        checks=checks,
        draining=lambda: False,
        metrics=metrics,
        capabilities=lambda: CAN,
        check_timeout_s=0.05,
    )
    return app


async def wire_to(serve: Serve, dial: Dial, **checks: Check) -> Wire:
    return await dial(await serve(whole_app(Metrics(), **checks)))


TOKEN = "Authorization: Bearer " + "t" * 20


async def test_a_process_that_answers_is_alive(serve: Serve, dial: Dial) -> None:
    wire = await wire_to(serve, dial, disk=bad)
    answer = await wire.ask("GET /livez HTTP/1.1")
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "alive"})


async def test_a_server_is_ready_when_all_checks_are_well(
    serve: Serve, dial: Dial
) -> None:
    wire = await wire_to(serve, dial, disk=fine, database=fine)
    answer = await wire.ask("GET /readyz HTTP/1.1")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    well = {"ok": True, "reason": None}
    assert json.loads(answer.body) == {
        "status": "ready",
        "draining": False,
        "checks": {"disk": well, "database": well},
    }


async def test_a_server_says_which_check_failed_and_why(
    serve: Serve, dial: Dial
) -> None:
    wire = await wire_to(
        serve, dial, pool=bad, disk=full, database=fine, store=slow, odd=broken
    )
    with structlog.testing.capture_logs():
        answer = await wire.ask("GET /readyz HTTP/1.1")
    assert answer.status == 503
    checks = json.loads(answer.body)["checks"]
    assert {name: one["reason"] for name, one in checks.items()} == {
        "pool": "no worker could be started",
        "disk": "The disk has no room for this; what arrived is kept.",
        "database": None,
        "store": "no answer within 0.05 s",
        "odd": "the check itself failed; the log has the reason",
    }
    assert [name for name, one in checks.items() if one["ok"]] == ["database"]


async def test_capabilities_say_what_is_missing(serve: Serve, dial: Dial) -> None:
    wire = await wire_to(serve, dial)
    answer = await wire.ask(f"GET /capabilities HTTP/1.1\n{TOKEN}")
    shown = json.loads(answer.body)
    assert shown["version"] == "1.2.3"
    assert shown["limits"] == {"maxUploadBytes": 5}
    video = {"name": "video", "accepts": ["video/*"], "missingTool": "ffmpeg"}
    assert shown["processors"][1] == {**video, "ready": False}
    assert shown["processors"][0]["ready"] is True


async def test_metrics_are_for_those_who_have_the_token(
    serve: Serve, dial: Dial
) -> None:
    wire = await wire_to(serve, dial)
    assert (await wire.ask("GET /metrics HTTP/1.1")).code == "unauthorized"
    answer = await wire.ask(f"GET /metrics HTTP/1.1\n{TOKEN}")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"asyncflow_uploads_completed_total 0.0" in answer.body


async def test_requests_are_counted_by_pattern_and_never_by_address(
    serve: Serve, dial: Dial
) -> None:
    metrics = Metrics()
    app = whole_app(metrics)
    wire = await dial(await serve(app))
    with structlog.testing.capture_logs() as logs:
        assert (await wire.ask("GET /livez?token=s3cr3t HTTP/1.1")).status == 200
        assert (await wire.ask(f"GET /hidden-name HTTP/1.1\n{TOKEN}")).status == 404
        assert (await wire.ask("POST /livez HTTP/1.1")).status == 405
    text = (await metrics.render()).decode()
    sample = 'asyncflow_http_requests_total{method="GET",route="%s",status="%s"} 1.0'
    assert sample % ("/livez", "2xx") in text
    assert sample % ("unmatched", "4xx") in text
    assert 'asyncflow_http_request_seconds_count{method="GET",route="/livez"}' in text
    assert [line["status"] for line in logs] == [200, 404, 405]
    for word in ("s3cr3t", "hidden-name", "t" * 20):
        assert word not in text
        assert word not in str(logs)


async def test_gauges_are_set_just_before_they_are_read() -> None:
    metrics = Metrics()

    async def look() -> None:
        metrics.queue_length.set(7, "image", "ready")

    metrics.on_scrape(look)
    sample = b'asyncflow_queue_length{consumer="image",state="ready"} 7.0'
    assert sample in await metrics.render()


async def test_a_callback_that_fails_hides_nothing_else() -> None:
    metrics = Metrics()

    async def fail() -> None:
        raise OSError("no")

    async def look() -> None:
        metrics.open_uploads.set(3)

    metrics.on_scrape(fail)
    metrics.on_scrape(look)
    with structlog.testing.capture_logs() as logs:
        assert b"asyncflow_open_uploads 3.0" in await metrics.render()
    assert [line["event"] for line in logs] == ["metrics.callback_failed"]


async def test_a_label_cannot_grow_without_bound() -> None:
    metrics = Metrics()
    for number in range(MAX_VALUES + 50):
        metrics.uploads_refused.inc(f"code-{number}")
    lines = (await metrics.render()).decode().splitlines()
    samples = [ln for ln in lines if ln.startswith("asyncflow_uploads_refused_total{")]
    assert len(samples) == MAX_VALUES + 1
    assert 'asyncflow_uploads_refused_total{code="other"} 50.0' in samples


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.uploads_completed.inc()
    name = "asyncflow_uploads_completed_total"
    assert one.registry.get_sample_value(name) == 1
    assert other.registry.get_sample_value(name) == 0


def test_every_metric_says_what_it_is() -> None:
    specs = Metrics().specs()
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.name.startswith("asyncflow_")
        assert spec.help.endswith(".")
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert spec.name.endswith("_total") == (spec.kind == "counter")


def test_a_metric_refuses_what_its_kind_cannot_do() -> None:
    metrics = Metrics()
    with pytest.raises(TypeError, match="is not a gauge"):
        metrics.bytes_received.set(1)
    with pytest.raises(TypeError, match="is not a gauge"):
        metrics.bytes_received.dec()
    with pytest.raises(TypeError, match="is not a histogram"):
        metrics.bytes_received.observe(1)
    with pytest.raises(TypeError, match="is a histogram"):
        metrics.db_batch_size.inc()


def test_a_metric_refuses_labels_that_it_does_not_have() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="argument"):
        metrics.jobs_finished.inc()
    with pytest.raises(ValueError, match="argument"):
        metrics.uploads_completed.inc("tus")
