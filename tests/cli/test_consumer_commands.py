"""The operator's commands, against a real server."""

import json
from collections.abc import Iterator

import pytest

from asyncflow.cli import main
from tests.cli.test_completion import complete
from tests.server_process import ServerProcess
from tests.web.live import healthy_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("consumers")
    with healthy_server(folder, workers="1") as found:
        found.finished(found.upload("a.txt", b"hello"))
        yield found


def run(server: ServerProcess, *words: str) -> int:
    return main([*words, "--url", server.url, "--token", server.token])


def test_consumers_are_shown_as_a_table(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "consumers") == 0

    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["NAME", "WAITING", "OLDEST", "RUNNING"]
    assert head.split()[5:8] == ["DONE", "DEAD", "REFUSED"]
    (identify,) = [row.split() for row in rows if row.startswith("identify")]
    assert identify[:5] == ["identify", "0", "-", "0", "0"]
    assert int(identify[5]) >= 1


def test_consumers_are_printed_for_programs(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "consumers", "--json") == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = {one["name"] for one in lines}
    assert {"identify", "image", "text", "sample-task"} <= names


def test_consumers_are_paused_and_go_on(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "pause", "image", "text") == 0
    assert run(server, "consumers") == 0
    assert "image (paused)" in capsys.readouterr().out

    assert run(server, "resume", "image", "text") == 0

    assert run(server, "consumers") == 0
    assert "(paused)" not in capsys.readouterr().out


def test_what_belongs_to_no_tenant_is_paused(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "pause", "--tenant", "-", "acme") == 0
    assert capsys.readouterr().out == "-  paused\nacme  paused\n"
    job = server.upload("waits.txt", b"hello")
    assert server.status(job)["status"] == "PENDING"

    assert run(server, "resume", "--tenant", "-", "acme") == 0

    assert server.finished(job)["status"] == "COMPLETED"


def test_a_switch_and_a_replay_are_told_to_programs(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "pause", "image", "--json") == 0
    assert run(server, "resume", "image", "--json") == 0
    assert run(server, "resume", "image", "--quiet") == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        {"name": "image", "paused": True},
        {"name": "image", "paused": False},
    ]

    since = ("--consumer", "image", "--since", "2d")
    assert run(server, "replay", *since, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"consumer": "image", "steps": 0}


def test_what_only_others_had_is_forgotten(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "forget", "image", "nobody") == 1

    told, error = capsys.readouterr()
    assert told == "image  forgotten elsewhere\n"
    assert "there is no consumer called 'nobody'" in error
    # what this server has stays
    assert run(server, "consumers", "--quiet") == 0
    assert "image" in capsys.readouterr().out.split()


@pytest.mark.parametrize("line", ["pause im", "pause image --url {url} im"])
def test_a_shell_is_offered_the_servers_consumers(
    server: ServerProcess, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCFLOW_URL", server.url)
    monkeypatch.setenv("ASYNCFLOW_TOKEN", server.token)
    words = line.format(url=server.url)

    offered = complete(f"asyncflow {words}", len(words.split()))

    assert offered == ([] if "image" in words.split() else ["image"])


@pytest.mark.parametrize("since", ["2020-01-01", "2020-01-01T00:00:00+01:00", "365d"])
def test_a_replay_says_how_many_steps_it_made(
    server: ServerProcess, capsys: pytest.CaptureFixture[str], since: str
) -> None:
    # nothing that was uploaded is a picture
    assert run(server, "replay", "--consumer", "image", "--since", since) == 0

    assert capsys.readouterr().out == "image  0 steps\n"


def test_what_cannot_be_done_is_said_in_a_sentence(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "pause", "nobody") == 1
    assert "no consumer called 'nobody'" in capsys.readouterr().err
    assert run(server, "replay", "--consumer", "image", "--since", "soon") == 2
    assert "is no moment" in capsys.readouterr().err
    assert main(["consumers", "--url", server.url, "--token", "x" * 20]) == 1
    assert "token" in capsys.readouterr().err
