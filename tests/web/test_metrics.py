"""The metrics of a real server: complete, documented, and bounded."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from asyncflow.metrics import MAX_VALUES
from tests.docs.pages import rows
from tests.server_process import ServerProcess
from tests.web.live import Line, code_of, healthy_server, metric, until

NAME = "a-name-that-is-nobodys-business"
LABEL = re.compile(r"[\w/{}.:*+ -]{1,100}")
PROCESSOR = '''"""Fails each time."""

from asyncflow import Task, task


@task("hopeless")
def hopeless(work: Task) -> None:
    """Fail each time."""
    raise ValueError("no")
'''


def scrape(server: ServerProcess) -> dict[str, Family]:
    bearer = f"Bearer {server.token}"
    answer = server.request("GET", "/metrics", Authorization=bearer)
    assert answer.status == 200
    found = text_string_to_metric_families(answer.body.decode())
    return {one.name: one for one in found}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return kind and labels of every metric of the page, as a scraper names it."""
    return {
        name.strip("`").removesuffix("_total"): (
            kind,
            set(re.findall("`(.+?)`", labels)),
        )
        for name, kind, labels, _says in rows("reference/metrics.md")
    }


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[ServerProcess]:
    """Yield a server that has done, refused and failed something."""
    (tmp_path / "failing.py").write_text(PROCESSOR)
    settings = {
        "processors": "failing",
        "workers": "2",
        "attempts": "1",
        "max_upload_bytes": "1000",
    }
    with healthy_server(tmp_path, **settings) as server:
        task = server.request("POST", "/tasks", b'{"name": "hopeless"}').json["taskId"]
        for job in (server.upload(f"{NAME}.txt", b"text"), task):
            server.finished(job)
        assert code_of(server.request("PUT", f"/upload/{NAME}", b"x" * 1001))
        yield server


def test_what_a_server_shows_is_what_the_page_lists(busy: ServerProcess) -> None:
    shown, listed = scrape(busy), documented()
    ours = {name: one for name, one in shown.items() if name.startswith("asyncflow_")}
    assert set(ours) == set(listed)
    for name, one in ours.items():
        kind, labels = listed[name]
        assert one.type == kind
        for sample in one.samples:
            assert set(sample.labels) - {"le"} == labels, sample
    for name in ("process_resident_memory_bytes", "process_open_fds"):
        assert shown[name].samples[0].value > 0


def test_what_happened_is_counted_where_it_belongs(busy: ServerProcess) -> None:
    expected = {
        'asyncflow_uploads_created_total{protocol="raw"}': 1,
        "asyncflow_uploads_completed_total": 1,
        'asyncflow_uploads_refused_total{code="upload_too_large"}': 1,
        'asyncflow_dead_letters_total{consumer="hopeless"}': 1,
        'asyncflow_steps_finished_total{consumer="hopeless",outcome="error"}': 1,
        'asyncflow_steps_finished_total{consumer="identify",outcome="done"}': 1,
        'asyncflow_step_duration_seconds_count{consumer="identify"}': 1,
        'asyncflow_queue_length{consumer="hopeless",state="dead"}': 1,
        'asyncflow_jobs_created_total{kind="file"}': 1,
        'asyncflow_jobs_created_total{kind="task"}': 1,
        "asyncflow_db_failed_commits_total": 0,
    }
    assert {name: metric(busy, name) for name in expected} == expected
    assert metric(busy, "asyncflow_worker_busy_seconds_total") > 0
    assert metric(busy, "asyncflow_workers_resident_bytes") > 1 << 20
    assert metric(busy, "asyncflow_received_bytes_total") >= 4


FAILING = '''"""Fails at each text."""

from asyncflow import Result, Work, processor


@processor("reader", accepts=("text/plain",), outputs=())
def reader(work: Work) -> Result:
    """Fail each time."""
    raise ValueError("no")
'''


def test_dead_letters_are_what_is_not_a_files_own_fault_and_replays_too(
    tmp_path: Path,
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    settings = {"processors": "failing", "workers": "2", "attempts": "1"}
    with healthy_server(tmp_path, **settings) as server:
        broken = server.upload("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(500))
        assert server.finished(broken)["status"] == "REJECTED"
        server.finished(server.upload("a.txt", b"some text"))
        assert dead(server) == {"reader": 1}

        said = b'{"since": "2020-01-01T00:00:00Z"}'
        path = "/admin/consumers/reader/replay"
        bearer = f"Bearer {server.token}"
        assert server.request("POST", path, said, Authorization=bearer).status == 202
        ended = 'asyncflow_steps_finished_total{consumer="reader",outcome="error"}'
        until(lambda: metric(server, ended) == 2)

        assert dead(server) == {"reader": 2}
        ended = 'asyncflow_steps_finished_total{consumer="identify",outcome="bad_file"}'
        assert metric(server, ended) == 1
        for name, state in (("reader", "dead"), ("identify", "refused")):
            queue = f'asyncflow_queue_length{{consumer="{name}",state='
            found = {
                one: metric(server, f'{queue}"{one}"}}') for one in ("dead", "refused")
            }
            assert found == {
                "dead": 0,
                "refused": 0,
                state: 2 if name == "reader" else 1,
            }


def dead(server: ServerProcess) -> dict[str, float]:
    """Return the dead letters that were counted, by consumer."""
    samples = scrape(server)["asyncflow_dead_letters"].samples
    return {s.labels["consumer"]: s.value for s in samples if s.name.endswith("_total")}


def test_no_stranger_can_make_a_label(busy: ServerProcess) -> None:
    before = sum(len(one.samples) for one in scrape(busy).values())
    with Line(busy) as line:
        for n in range(2 * MAX_VALUES):
            line.ask("GET", f"/{NAME}/{n}")
            line.ask("GET", f"/status/{NAME}-{n}", ("X-Tenant", f"{NAME}-{n}"))
    for verb in ("DOA", "DOB", "DOC"):
        with Line(busy) as line:
            line.ask(verb, f"/upload/{NAME}")
    found = scrape(busy)
    after = sum(len(one.samples) for one in found.values())
    assert after - before < MAX_VALUES
    for one in found.values():
        for sample in one.samples:
            for value in sample.labels.values():
                assert LABEL.fullmatch(value), sample
                assert NAME not in value
                assert not re.search("[0-9a-f]{8}-", value), "an id"
