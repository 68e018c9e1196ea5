import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from asyncflow.cli import main
from tests.client.small_server import SmallServer, job, step, whole


def test_a_status_shows_steps_files_and_what_went_wrong(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"code": "timeout", "detail": "ran longer than allowed"}
    server.jobs["j"] = job(
        "j",
        "FAILED",
        fileSize=2048,
        steps=[
            step(
                "identify",
                "done",
                startedAt="2026-01-02T03:04:05.000Z",
                finishedAt="2026-01-02T03:04:05.500Z",
            ),
            step("image", "dead", attempts=3, error=broken),
        ],
        downloadUrls={"original": "/jobs/j/files/original"},
        error={**broken, "step": "image"},
    )

    assert main(["status", "j"]) == 0

    shown = capsys.readouterr().out
    assert "photo.jpg  2.0 KiB" in shown
    assert "identify  done  0.5 s" in shown
    assert "image     dead  3 attempts  ran longer than allowed (timeout)" in shown
    assert f"{server.url}/jobs/j/files/original" in shown


NO_TOOL = "a tool for that is not installed"
BOTH = "languages deu and fra"
NO_DATA = "may be wrong or missing."


def unread(*pages: int, reason: str = "damaged") -> list[dict[str, object]]:
    return [{"page": page, "reason": reason} for page in pages]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (
            {"failedPages": unread(2)},
            ["Page 2 could not be read: it is damaged."],
        ),
        (
            {"failedPages": unread(8, reason="crashed")},
            ["Page 8 could not be read: the reader crashed on it."],
        ),
        (
            {"failedPages": unread(1, 3, 4, 5, 8, 9) + unread(7, reason="timeout")},
            [
                "Pages 1, 3 to 5, 8 and 9 could not be read: they are damaged.",
                "Page 7 could not be read in full: it took too long.",
            ],
        ),
        (
            {"failedPages": unread(*range(1, 60, 2), reason="odd\x1b[2J")},
            [
                (
                    "Pages 1, 3, 5, 7, 9, 11, 13, 15, 17 and 21 more could not be read "
                    "(odd\\x1b[2J)."
                )
            ],
        ),
        (
            {"failedPages": [], "missingLanguages": ["deu"], "ocrPages": 2},
            [
                f"No data for the language deu is installed: text in it {NO_DATA}",
            ],
        ),
        (
            {
                "failedPages": unread(1, reason="missing_tool"),
                "missingLanguages": ["deu", "fra"],
            },
            [
                f"Page 1 could not be read in full: {NO_TOOL}.",
                f"No data for the {BOTH} is installed: text in them {NO_DATA}",
            ],
        ),
        (
            {
                "failedPages": unread(3),
                "failedOutputs": [
                    {"output": "searchablePdf", "reason": "crashed"},
                    {"output": "preview", "reason": "timeout"},
                    {"output": "odd\x1b[2J", "reason": "odd\x1b[2J"},
                ],
            },
            [
                "Page 3 could not be read: it is damaged.",
                "The searchable PDF could not be made: what makes it crashed.",
                "The preview could not be made: it took too long.",
                "The odd\\x1b[2J could not be made (odd\\x1b[2J).",
            ],
        ),
        (
            {
                "failedPages": unread(2, reason="truncated"),
                "emptyPages": unread(2, reason="truncated"),
            },
            [
                "Page 2 could not be read: it ends too early.",
                "Page 2 of the searchable PDF is empty: it could not be shown.",
            ],
        ),
        (
            {"failedPages": unread(2, 4), "emptyPages": unread(2, 4)},
            [
                "Pages 2 and 4 could not be read: they are damaged.",
                (
                    "Pages 2 and 4 of the searchable PDF are empty: "
                    "they could not be shown."
                ),
            ],
        ),
        # where each page carries its text nobody needs the data
        ({"failedPages": [], "missingLanguages": ["deu"], "ocrPages": 0}, []),
        # somebody's own function may find anything
        ({"failedPages": 3}, []),
        ({"failedPages": [7]}, []),
        ([], []),
        (None, []),
    ],
)
def test_a_status_says_what_the_steps_left_out(
    server: SmallServer, capsys: pytest.CaptureFixture[str], facts: object, told: object
) -> None:
    done = [step("identify", "done"), step("text", "done")]
    server.jobs["j"] = job("j", steps=done, facts={"text": facts})

    assert main(["status", "j"]) == 0

    after = capsys.readouterr().out.partition("text      done\n")[2]
    assert [line.strip() for line in after.splitlines()] == told


def test_a_status_in_json_is_one_document(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs["j"] = job("j")

    assert main(["status", "j", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["jobId"] == "j"


def test_watching_ends_as_the_job_ends(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs["j"] = job("j", "PROCESSING", steps=[step("image", "running")])
    failed = job("j", "FAILED", steps=[step("image", "dead")])
    server.scripts["j"] = [
        [whole("snapshot", server.jobs["j"]), whole("job.failed", failed)]
    ]

    assert main(["status", "j", "--watch", "--json"]) == 1

    types = [json.loads(one)["type"] for one in capsys.readouterr().out.splitlines()]
    assert types == ["snapshot", "job.failed"]


def test_a_job_that_is_none_is_said_plainly(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "nobody"]) == 1

    assert "Error: No job has this id. (job_not_found)" in capsys.readouterr().err
    assert server.requests[-1] == ("GET", "/status/nobody")


def test_jobs_are_listed_up_to_the_limit(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs = {str(n): job(str(n), fileName="\x1b]0;x\x07") for n in range(5)}

    assert main(["jobs", "--limit", "3"]) == 0

    listed = capsys.readouterr().out
    assert len(listed.splitlines()) == 3
    assert "\x1b" not in listed


def test_jobs_in_json_are_a_line_each(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs = {"a": job("a", "FAILED"), "b": job("b")}

    assert main(["jobs", "--state", "failed", "--json"]) == 0

    found = [json.loads(line)["jobId"] for line in capsys.readouterr().out.splitlines()]
    assert found == ["a"]


def test_no_jobs_is_not_silence(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs"]) == 0

    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "No jobs.\n")
    assert server.requests[-1] == ("GET", "/jobs")


def test_a_retry_that_is_refused_does_not_stop_the_others(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs = {"good": job("good"), "bad": job("bad", "FAILED")}

    assert main(["retry", "good", "bad"]) == 1

    shown = capsys.readouterr()
    assert "bad  PROCESSING" in shown.out
    assert "good: nothing to retry" in shown.err


def test_jobs_are_deleted_when_somebody_says_yes(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs = {"a": job("a"), "b": job("b"), "c": job("c")}

    assert main(["delete", "a"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert len(server.jobs) == 3

    assert main(["delete", "a", "nobody", "b", "--yes", "--json"]) == 1

    shown = capsys.readouterr()
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert found == [{"jobId": "a", "deleted": True}, {"jobId": "b", "deleted": True}]
    assert "nobody: No job" in shown.err
    assert list(server.jobs) == ["c"]


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, []), ("", 130, ["a"])])
def test_who_sits_at_a_terminal_is_asked_before_a_job_is_deleted(
    server: SmallServer, answer: str, code: int, left: list[str]
) -> None:
    server.jobs = {"a": job("a")}
    mine, its = pty.openpty()
    os.write(mine, f"{answer}\n".encode())
    program = subprocess.run(
        [sys.executable, "-m", "asyncflow", "delete", "a"],
        stdin=its,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        timeout=30,
    )
    os.close(mine)
    os.close(its)

    assert "Delete this job and all its files?" in program.stderr
    assert program.returncode == code
    assert list(server.jobs) == left


def test_quiet_is_what_another_command_takes(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs = {"a": job("a", "FAILED"), "b": job("b", "FAILED")}

    assert main(["jobs", "-q"]) == 0
    ids = capsys.readouterr().out.split()
    assert main(["retry", "-q", *ids]) == 0
    assert capsys.readouterr().out == ""
    assert main(["status", "-q", "a"]) == 0

    assert ids == ["a", "b"]
    assert capsys.readouterr().out == "PROCESSING\n"


def test_an_unreadable_token_file_is_as_good_as_none(server: SmallServer) -> None:
    Path("data").mkdir()
    Path("data/token").write_bytes(b"\xff\xfe")

    assert main(["jobs"]) == 0
    assert server.requests[-1] == ("GET", "/jobs")


def test_a_reader_that_goes_away_sees_no_traceback(server: SmallServer) -> None:
    server.jobs = {str(n): job(str(n)) for n in range(5)}

    program = f"{sys.executable} -m asyncflow jobs --json | head -n 1"
    done = subprocess.run(
        ["sh", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )

    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_terminal_without_the_letters_gets_their_numbers(
    server: SmallServer,
) -> None:
    server.jobs = {"j": job("j", fileName="été 🏔.jpg")}

    done = subprocess.run(
        [sys.executable, "-m", "asyncflow", "status", "j"],
        capture_output=True,
        encoding="latin-1",
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": ":".join(sys.path),
            "PYTHONIOENCODING": "latin-1",
        },
    )

    assert "été \\U0001f3d4.jpg" in done.stdout


def test_a_number_is_written_in_digits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asyncflow", "jobs", "--limit", "1_0"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "'1_0' is not a whole number" in done.stderr


@pytest.mark.parametrize("end", ["\r", "\n", "\nX-Evil: 1"])
def test_a_token_with_a_line_break_is_said_to_be_one(
    server: SmallServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    monkeypatch.setenv("ASYNCFLOW_TOKEN", f"a-long-secret{end}")

    assert main(["jobs"]) == 1

    said = capsys.readouterr().err
    assert "the token holds a line break" in said
    assert "secret" not in said
    assert server.requests == []
