import bz2
import gzip
import lzma
import os
import pty
import re
import selectors
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from aiohttp import web
from PIL import Image

from asyncflow.cli import main
from tests.cli.programs import ARGV, environment, lines
from tests.client.small_server import SmallServer, job, problem, step, whole
from tests.docs.pages import page
from tests.processors.text_pages import joined, page_pdf
from tests.server_process import serving


def test_a_file_is_uploaded_and_its_job_named(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(photo)]) == 0

    assert bytes(server.uploads["job-1"].data) == photo.read_bytes()
    assert f"{server.url}/status/job-1" in capsys.readouterr().out


def test_json_is_a_line_per_file_and_nothing_else(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b.txt").write_text("b")

    assert main(["upload", str(photo), "b.txt", "--json"]) == 0

    found = {line["file"]: line for line in lines(capsys.readouterr().out)}
    assert found.keys() == {"photo.jpg", "b.txt"}
    assert "status" not in found["b.txt"]
    assert found["b.txt"]["statusUrl"].startswith(server.url)


def test_quiet_prints_the_ids_only(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(photo), "-q"]) == 0

    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("job-1\n", "")
    assert server.uploads.keys() == {"job-1"}


def test_quiet_json_is_json_and_nothing_beside_it(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs["job-1"] = job("job-1")

    assert main(["upload", str(photo), "-q", "--json", "--wait"]) == 0

    shown = capsys.readouterr()
    assert [line["jobId"] for line in lines(shown.out)] == ["job-1"]
    assert shown.err == ""


def test_the_standard_input_is_a_file_called_as_one_says(server: SmallServer) -> None:
    Path("-").write_bytes(b"a file of that name")
    for argv in (["-"], ["-", "--name", "report.pdf"], ["./-"]):
        subprocess.run(
            [*ARGV, "upload", *argv],
            input=b"from a pipe",
            check=True,
            env=environment(),
            timeout=30,
        )

    found = [(one.name, bytes(one.data)) for one in server.uploads.values()]
    assert found == [
        ("stdin", b"from a pipe"),
        ("report.pdf", b"from a pipe"),
        ("-", b"a file of that name"),
    ]
    # what type its name means is for the server to say
    assert server.uploads["job-2"].media_type is None


def test_ctrl_c_ends_a_command_that_waits_for_its_standard_input(
    server: SmallServer,
) -> None:
    reached = threading.Event()
    server.on_livez = reached.set
    argv = [*ARGV, "upload", "-"]
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as program:
        assert program.stderr is not None
        assert reached.wait(30)

        program.send_signal(signal.SIGINT)

        assert program.wait(10) == 130
        assert program.stderr.read() == "Interrupted.\n"
    assert server.uploads == {}


def test_waiting_tells_the_steps_and_the_end(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = job("job-1", steps=[step("image", "done")], downloadUrls={"thumbnail": "/t"})
    begun = job("job-1", "PROCESSING", steps=[step("image", "running")])
    server.jobs["job-1"] = begun
    server.scripts["job-1"] = [[whole("snapshot", begun), whole("job.completed", done)]]

    assert main(["upload", str(photo), "--wait", "--json"]) == 0

    shown = capsys.readouterr()
    assert "photo.jpg: image running" in shown.err
    assert lines(shown.out)[0]["job"]["downloadUrls"] == {"thumbnail": "/t"}


def test_a_step_that_was_left_out_is_said_with_its_reason(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = {"code": "no_text", "detail": "there is no text in this picture"}
    steps = [step("image", "done"), step("text", "skipped", error=why)]
    server.jobs["job-1"] = job("job-1", steps=steps)

    assert main(["upload", str(photo), "--wait"]) == 0

    said = capsys.readouterr().out
    assert "photo.jpg: COMPLETED\n  text skipped: there is no text in this" in said


UNREAD = {"text": {"failedPages": [{"page": 2, "reason": "timeout"}], "ocrPages": 1}}
SENTENCE = "Page 2 could not be read in full: it took too long."


def test_pages_that_could_not_be_read_are_said_in_plain_words(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = job("job-1", steps=[step("text", "done")], facts=UNREAD)
    server.jobs["job-1"] = done

    assert main(["upload", str(photo), "--wait"]) == 0

    said = capsys.readouterr().out
    assert f"photo.jpg: COMPLETED\n  {SENTENCE}\n" in said


def test_quiet_says_on_stderr_which_pages_could_not_be_read(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs["job-1"] = job("job-1", steps=[step("text", "done")], facts=UNREAD)

    assert main(["upload", str(photo), "--wait", "-q"]) == 0

    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("job-1\n", f"photo.jpg: {SENTENCE}\n")


def test_a_job_that_fails_is_a_failure_when_waiting(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "damaged", "detail": "the file cannot be read", "step": "image"}
    server.jobs["job-1"] = job("job-1", "REJECTED", error=error)

    assert main(["upload", str(photo), "--wait"]) == 1

    assert "REJECTED, the file cannot be read (damaged)" in capsys.readouterr().out


def test_a_refused_file_does_not_stop_the_others(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b.txt").write_text("b")
    server.refusals = [problem(web.HTTPUnsupportedMediaType, "type_not_allowed", "no")]

    assert main(["upload", str(photo), "b.txt", "--json"]) == 1

    found = lines(capsys.readouterr().out)
    assert sorted("error" in line for line in found) == [False, True]
    assert len(server.uploads) == 1


def test_one_name_is_for_one_file(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(photo), "--name", "other.jpg"]) == 0
    assert server.uploads["job-1"].name == "other.jpg"

    Path("b.txt").write_text("b")
    assert main(["upload", str(photo), "b.txt", "--name", "other.jpg"]) == 2
    assert "--name names one file" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_shown_all_the_same(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"\xff.jpg")
    Path(name).write_bytes(b"x")

    assert main(["upload", name, "--json"]) == 0

    assert lines(capsys.readouterr().out)[0]["file"] == "\\udcff.jpg"
    assert server.uploads["job-1"].name == "?.jpg"


def test_nobody_there_is_said_at_once_and_plainly(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(photo), "--url", "http://127.0.0.1:9"]) == 1

    shown = capsys.readouterr().err
    assert "Connection refused" in shown
    assert "asyncflow serve" in shown
    assert "Traceback" not in shown


def test_a_missing_token_is_said_plainly(
    server: SmallServer, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.token = "secret-token"

    assert main(["upload", str(photo)]) == 1

    assert "ASYNCFLOW_TOKEN" in capsys.readouterr().err


def test_the_token_of_the_data_folder_is_used_on_this_machine(
    server: SmallServer, photo: Path
) -> None:
    server.token = "secret-token"
    Path("data").mkdir()
    Path("data/token").write_text("secret-token\n")

    assert main(["upload", str(photo)]) == 0


def test_the_token_of_another_servers_folder_does_no_harm(tmp_path: Path) -> None:
    with serving(tmp_path / "its", workers="1") as server:
        Path("data").mkdir()
        Path("data/token").write_text("the-secret-of-another-server\n")
        Path("a.txt").write_text("a")

        assert main(["upload", "a.txt", "--url", server.url]) == 0


def test_pages_of_a_language_nobody_can_read_are_said_by_upload_and_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = page_pdf("BT /F1 24 Tf 72 700 Td (a good page) Tj ET", tmp_path / "1.pdf")
    Image.effect_noise((300, 200), 60).save(tmp_path / "2.pdf")
    joined([typed, tmp_path / "2.pdf"], Path("mixed.pdf"))
    with serving(tmp_path / "its", workers="1", text_languages="tlh") as server:
        assert main(["upload", "mixed.pdf", "--wait", "--url", server.url]) == 0
        told = capsys.readouterr().out
        job_id = told.split()[-1].rpartition("/")[2]
        assert main(["status", job_id, "--url", server.url]) == 0

    why = "a tool for that is not installed"
    for said in (told, capsys.readouterr().out):
        assert f"  Page 2 could not be read in full: {why}.\n" in said
        assert "  No data for the language tlh is installed:" in said


def test_a_hostile_name_cannot_touch_the_terminal(
    server: SmallServer, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[2J\u202e\n🏔.jpg"
    Path(name).write_bytes(b"x")

    assert main(["upload", name]) == 0

    shown = capsys.readouterr()
    assert "\\x1b[2J\\u202e\\n🏔.jpg" in shown.out
    assert "\x1b" not in shown.out + shown.err
    assert server.uploads["job-1"].name == name


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    server: SmallServer,
) -> None:
    Path("big.bin").write_bytes(os.urandom(8_000_000))
    argv = [*ARGV, "upload", "big.bin"]
    server.stall_after = 1_000_000
    first = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment())
    assert server.stalled.wait(30)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=30)

    assert first.returncode == 130
    assert "Run the same command again" in said
    assert "Traceback" not in said
    server.stall_after = None
    second = subprocess.run(
        argv, capture_output=True, text=True, check=True, env=environment(), timeout=30
    )
    assert "big.bin: continues at" in second.stderr
    assert bytes(server.uploads["job-1"].data) == Path("big.bin").read_bytes()
    assert server.received == 8_000_000


def interrupted(argv: list[str], *reached: threading.Event) -> str:
    """Run *argv* until all is *reached*, press Ctrl-C; return what it says of that."""
    with subprocess.Popen(
        [*ARGV, *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as program:
        assert all(one.wait(30) for one in reached)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
    assert program.returncode == 130
    return said[said.index("Interrupted.") :]


@pytest.mark.parametrize("quiet", [(), ("-q",), ("--json",)])
def test_ctrl_c_while_waiting_says_which_job_goes_on_and_how_to_watch_it(
    server: SmallServer, photo: Path, quiet: tuple[str, ...]
) -> None:
    server.jobs["job-1"] = job("job-1", "PROCESSING")
    waits = threading.Event()
    server.on_socket = waits.set

    said = interrupted(["upload", "--wait", str(photo), *quiet], waits)

    assert said == (
        "Interrupted.\nphoto.jpg: its job goes on. "
        "Watch it again: asyncflow status job-1 --watch\n"
    )


def test_ctrl_c_tells_the_files_that_are_whole_from_those_that_are_not(
    server: SmallServer, photo: Path
) -> None:
    Path("big.bin").write_bytes(os.urandom(8_000_000))
    server.jobs = {name: job(name, "PROCESSING") for name in ("job-1", "job-2")}
    server.stall_after = 1_000_000
    waits = threading.Event()
    server.on_socket = waits.set
    argv = ["upload", "--wait", str(photo), "big.bin"]

    said = interrupted(argv, waits, server.stalled)

    (whole_one,) = (k for k, v in server.uploads.items() if v.name == "photo.jpg")
    assert said == (
        "Interrupted.\nphoto.jpg: its job goes on. "
        f"Watch it again: asyncflow status {whole_one} --watch\n"
        "Not whole yet: big.bin. Upload these again: they continue.\n"
    )
    server.stall_after = None
    assert main(["upload", "big.bin"]) == 0
    assert len(server.uploads) == 2


def on_a_terminal(
    argv: list[str], columns: int, *, interrupt_at: str | None = None
) -> tuple[str, int]:
    """Run *argv* on a terminal; return all that it wrote there, and its exit code.

    With *interrupt_at*, send it a Ctrl-C once it has written that.
    """
    mine, its = pty.openpty()
    place = environment(
        COLUMNS=str(columns), LINES="24", TERM="xterm-256color", NO_COLOR="1"
    )
    seen = b""
    with (
        subprocess.Popen(argv, stdin=its, stdout=its, stderr=its, env=place) as program,
        selectors.DefaultSelector() as selector,
        os.fdopen(mine, "rb", buffering=0) as terminal,
    ):
        os.close(its)
        selector.register(terminal, selectors.EVENT_READ)
        while selector.select(30):
            try:
                seen += terminal.read(65536)
            except OSError:  # the other side is closed
                break
            if interrupt_at is not None and interrupt_at.encode() in seen:
                program.send_signal(signal.SIGINT)
                interrupt_at = None
        else:
            program.kill()
    return seen.decode(), program.returncode


@pytest.mark.parametrize("columns", [120, 80, 30])
def test_on_a_terminal_no_bar_is_wider_than_the_window(
    server: SmallServer, columns: int
) -> None:
    name = "a-rather-long-name-for-a-picture-🏔-of-a-mountain.jpg"
    Path(name).write_bytes(os.urandom(3_000_000))
    server.stall_after = 1_000_000

    seen, code = on_a_terminal([*ARGV, "upload", name], columns, interrupt_at="% of")

    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    bars = [ln for ln in re.split(r"[\r\n]+", plain) if "% of" in ln]
    assert all(len(bar) <= columns for bar in bars)
    assert "Run the same command again" in plain
    assert code == 130


def test_no_color_means_no_colours(server: SmallServer, photo: Path) -> None:
    seen, code = on_a_terminal([*ARGV, "upload", str(photo)], 80)

    assert "✓ photo.jpg" in seen
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m|\x1b\[38", seen)
    assert (code, server.received) == (0, 200_000)


def test_a_password_in_the_address_is_refused_in_plain_words(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://user:secret@127.0.0.1:1/"

    assert main(["upload", str(photo), "--url", url, "--token", "t"]) == 1

    said = capsys.readouterr().err
    assert "user name or password" in said
    assert "secret" not in said


def test_a_packed_file_is_not_taken_for_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = {
        "scan.pdf.gz": gzip.compress(b"%PDF-1.7 as far as its name says"),
        "photo.jpg.gz": gzip.compress(b"a picture"),
        "clip.mp4.xz": lzma.compress(b"a film"),
        "a.pdf.bz2": bz2.compress(b"a scan"),
    }
    for name, data in packed.items():
        Path(name).write_bytes(data)
    with serving(tmp_path / "data", workers="1") as server:
        where = ["--url", server.url, "--token", server.token]

        assert main(["upload", "--wait", "--json", *packed, *where]) == 0
        # as `curl -T` sends it
        sent = [server.upload(name, data) for name, data in packed.items()]
        assert {server.finished(one)["status"] for one in sent} == {"COMPLETED"}

    found = lines(capsys.readouterr().out)
    assert {one["status"] for one in found} == {"COMPLETED"}
    assert len(found) == len(packed)


#: a beginning of each, as far as its kind shows in it
REFUSED = {
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "MVG": b"push graphic-context",
    "MSL": b"<?xml version='1.0'?><image/>",
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x28\0\0\0\x16\0\0\0" + bytes(64),
    "PSD": b"8BPS\0\1" + bytes(7) + b"\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(64),
    "DjVu": b"AT&TFORM\0\0\x02\0DJVUINFO\0\0\0\x0a" + bytes(512),
    "DXF": b"  0\nSECTION\n  2\nHEADER\n  9\n$ACADVER\n  1\nAC1009\n  0\nENDSEC\n",
}


def test_the_kinds_that_the_documentation_calls_refused_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = page("reference/processors.md").partition("## identify")[2]
    told = told.partition("\n## image")[0]
    files = []
    for kind, data in REFUSED.items():
        assert kind in told
        files.append(Path(f"a.{kind.lower()}"))
        files[-1].write_bytes(data)
    office = Path("a.docx")
    office.write_bytes(b"PK\3\4" + bytes(100))
    with serving(tmp_path / "data", workers="1") as server:
        where = ["--url", server.url, "--token", server.token]

        paths = [str(file) for file in (*files, office)]
        assert main(["upload", "--wait", "--json", *paths, *where]) == 1

    found = {one["file"]: one for one in lines(capsys.readouterr().out)}
    assert found.pop(str(office))["status"] == "COMPLETED"
    assert {one["status"] for one in found.values()} == {"REJECTED"}
    assert all("(unsupported_type)" in one["error"] for one in found.values())
    assert len(found) == len(REFUSED)
