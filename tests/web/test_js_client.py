"""tus-js-client, which browsers use, in each of its modes and dialects."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.server_process import ServerProcess
from tests.web.live import healthy_server, look

pytestmark = [pytest.mark.needs("node"), pytest.mark.needs("npm")]

DATA = b"the same words over and over\n" * 10_000
INSTALL_S = 100
RUN_S = 30
DRAFTS = ["tus-v1", "ietf-draft-03", "ietf-draft-05"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with healthy_server(tmp_path_factory.mktemp("js-client")) as found:
        yield found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the client outside the repository; return the program that uses it."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "upload.mjs"):
        shutil.copy(ROOT / "tests" / "js" / name, folder)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=INSTALL_S,
    )
    (folder / "words.txt").write_bytes(DATA)
    return folder / "upload.mjs"


def run(
    server: ServerProcess, client: Path, mode: str = "whole", **options: object
) -> Any:
    asked = {
        "endpoint": f"{server.url}/files/",
        "path": str(client.with_name("words.txt")),
        "mode": mode,
        "options": options,
    }
    done = subprocess.run(
        ["node", str(client), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(server: ServerProcess, told: Any) -> str:
    job = str(told["url"]).rpartition("/")[2]
    assert server.finished(job)["status"] == "COMPLETED"
    assert server.request("GET", f"/jobs/{job}/files/original").body == DATA
    return job


@pytest.mark.parametrize("protocol", DRAFTS)
def test_a_file_in_one_piece(
    server: ServerProcess, client: Path, protocol: str
) -> None:
    check(server, run(server, client, protocol=protocol))


@pytest.mark.parametrize("protocol", DRAFTS)
def test_a_file_in_chunks(server: ServerProcess, client: Path, protocol: str) -> None:
    told = run(server, client, protocol=protocol, chunkSize=70_000)
    assert len([one for one in told["heard"] if one[0] == "PATCH"]) == 5
    check(server, told)


@pytest.mark.parametrize("protocol", DRAFTS)
def test_a_file_that_is_stopped_and_gone_on_with(
    server: ServerProcess, client: Path, protocol: str
) -> None:
    told = run(server, client, "resume", protocol=protocol)
    assert "HEAD" in {method for method, _status in told["heard"]}
    check(server, told)


def test_the_first_bytes_come_with_the_creation(
    server: ServerProcess, client: Path
) -> None:
    told = run(server, client, uploadDataDuringCreation=True)
    assert told["heard"] == [["POST", 201]]
    job = check(server, told)
    assert server.status(job)["fileName"] == "words.txt"


def test_a_file_in_parallel_parts(server: ServerProcess, client: Path) -> None:
    told = run(server, client, parallelUploads=3)
    assert len([one for one in told["heard"] if one[0] == "POST"]) == 4
    job = check(server, told)
    assert look(server, job).headers["upload-concat"].startswith("final;")


def test_a_file_whose_length_is_told_late(server: ServerProcess, client: Path) -> None:
    check(server, run(server, client, "deferred"))


def test_a_method_that_something_in_between_does_not_know(
    server: ServerProcess, client: Path
) -> None:
    told = run(server, client, overridePatchMethod=True)
    assert {method for method, _status in told["heard"]} == {"POST"}
    check(server, told)


@pytest.mark.parametrize("protocol", DRAFTS)
def test_a_file_that_is_sent_in_two_places_at_once(
    server: ServerProcess, client: Path, protocol: str
) -> None:
    told = run(server, client, "twice", protocol=protocol)
    job = str(told["url"]).rpartition("/")[2]
    assert server.status(job)["uploadedBytes"] == 256 << 20
    # who comes later sends it; the other one does not fight for it
    assert ["PATCH", 400] in told["heard"]
    assert "the first one gave up" in told["heard"]
    assert len([one for one in told["heard"] if one[0] == "HEAD"]) == 1


@pytest.mark.parametrize("protocol", DRAFTS)
def test_a_file_that_is_given_up(
    server: ServerProcess, client: Path, protocol: str
) -> None:
    told = run(server, client, "terminate", protocol=protocol)
    assert told["heard"][-1] == ["DELETE", 204]
    job = str(told["url"]).rpartition("/")[2]
    assert server.status(job)["status"] == "CANCELLED"
