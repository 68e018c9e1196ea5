"""What reaches the disk before anybody is told of it, as the kernel saw it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.crash.people import CHUNK
from tests.server_process import ServerProcess

TUS: Final[Mapping[str, Any]] = {"Tus_Resumable": "1.0.0"}
CALLS = "fdatasync,fsync,write,pwrite64,writev,pwritev,splice,sendto,sendmsg"
STRACE = ("strace", "-D", "-f", "-y", "-s", "32", "-e", f"trace={CALLS}")
DATA = b"plain text, and more of it\n" * 8_000
HALF = len(DATA) // 2

_LINE = re.compile(r"(?P<pid>\d+) +(?P<call>.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A system call: its text, and where in the trace it began and returned."""

    text: str
    began: int
    ended: int

    def is_sync(self, file: str) -> bool:
        """Tell whether it made a file durable."""
        return bool(re.match(rf"f(data)?sync\([^)]*{file}>\) += 0", self.text))

    def is_write(self, file: str) -> bool:
        """Tell whether it wrote into a file."""
        return bool(re.match(rf"(p?writev?(64)?|splice)\(.*{file}>", self.text))


def calls(trace: Path) -> list[Call]:
    """Read a trace of several threads; put together what was interrupted."""
    found: list[Call] = []
    open_calls: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        pid, text, began = match["pid"], match["call"], number
        if text.endswith(_UNFINISHED):
            open_calls[pid] = (text.removesuffix(_UNFINISHED), number)
            continue
        resumed = _RESUMED.match(text)
        if resumed is not None and pid in open_calls:
            head, began = open_calls.pop(pid)
            text = head + resumed["rest"]
        found.append(Call(text=text, began=began, ended=number))
    return found


def answers(trace: list[Call]) -> dict[int, int]:
    """Return where each answer to an upload began to be sent, with its status.

    Not those by which a server that starts tries its fast path.
    """
    ours = r'"HTTP/1\.1 (20[0124]) [A-Za-z ]+\\r\\n(?!Content-Type)'
    sent = ((call.began, re.search(ours, call.text)) for call in trace)
    return {began: int(match[1]) for began, match in sent if match is not None}


def check_bytes_first(trace: list[Call], upload: str, told: int) -> int:
    """The bytes were durable before the answer at *told*; return since when."""
    written = [c.ended for c in trace if c.is_write(upload) and c.ended < told]
    synced = [c for c in trace if c.is_sync(upload) and c.ended < told]
    assert written, "the trace shows no write"
    assert synced, "nothing was made durable"
    assert synced[-1].began > written[-1], "bytes were written after the last sync"
    return synced[-1].ended


def check_job_second(trace: list[Call], durable: int, told: int) -> None:
    """Between the bytes and the answer, the job was written and made durable."""
    log = r"asyncflow\.db-wal"
    written = [c.ended for c in trace if c.is_write(log) and durable < c.began < told]
    synced = [c.began for c in trace if c.is_sync(log) and durable < c.ended < told]
    assert written, "the job was not written after its bytes were durable"
    # the next batch, which claims the job's first step, may have begun as well
    assert [at for at in synced if at > written[0]], "it was told before it was durable"


@pytest.mark.needs("strace")
def test_bytes_then_the_job_are_durable_before_anybody_is_told(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    server = ServerProcess(
        data_dir=tmp_path / "data",
        settings={"workers": "1"},
        wrap=(*STRACE, "-o", str(log)),
    ).start()
    try:
        upload, single = act(server)
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()

    trace = calls(log)
    told = answers(trace)
    halves = [began for began, status in told.items() if status == 204]
    (accepted,) = [began for began, status in told.items() if status == 202]
    assert len(halves) == 2
    check_bytes_first(trace, upload, halves[0])
    durable = check_bytes_first(trace, upload, halves[1])
    check_job_second(trace, durable, halves[1])
    durable = check_bytes_first(trace, single, accepted)
    check_job_second(trace, durable, accepted)


@pytest.mark.needs("strace")
def test_what_a_dead_server_wrote_is_durable_before_it_counts(tmp_path: Path) -> None:
    log, data = tmp_path / "trace", tmp_path / "data"
    first = ServerProcess(data_dir=data, settings={"workers": "1"}).start()
    half, whole = begin(first), begin(first)
    for upload in (half, whole):
        send(first, upload, 0, HALF)
    first.kill()
    # the last bytes of one came, and the server died before it made them durable
    with (data / "store" / "raw" / whole[-2:] / whole).open("ab") as blob:
        blob.write(DATA[HALF:])

    second = ServerProcess(
        data_dir=data,
        settings={"workers": "1"},
        wrap=(*STRACE, "-o", str(log)),
    ).start()
    try:
        for upload, offset in ((half, HALF), (whole, len(DATA))):
            head = second.request("HEAD", f"/files/{upload}", **TUS)
            assert head.headers["upload-offset"] == str(offset)
        send(second, half, HALF, len(DATA))
        for upload in (half, whole):
            assert second.finished(upload)["status"] == "COMPLETED"
        assert second.stop() == 0
    finally:
        if second.process is not None and second.process.poll() is None:
            second.kill()

    trace = calls(log)
    told = [at for at, status in answers(trace).items() if status == 200]
    assert [c for c in trace if c.is_sync(half) and c.ended < told[0]]
    durable = [c.ended for c in trace if c.is_sync(whole)]
    assert durable, "a whole upload was accepted though nobody had synced it"
    check_job_second(trace, durable[0], told[1])


def begin(server: ServerProcess) -> str:
    """Create an upload of DATA; return its id."""
    created = server.request(
        "POST", "/files/", b"", **TUS, Upload_Length=str(len(DATA))
    )
    return created.headers["location"].rpartition("/")[2]


def send(server: ServerProcess, upload: str, start: int, end: int) -> None:
    """Send DATA from *start* to *end*."""
    answer = server.request(
        "PATCH",
        f"/files/{upload}",
        DATA[start:end],
        **TUS,
        Upload_Offset=str(start),
        Content_Type=CHUNK,
    )
    assert answer.status == 204


def act(server: ServerProcess) -> tuple[str, str]:
    """Upload a file in two halves and one in a single request; return their ids."""
    upload = begin(server)
    send(server, upload, 0, HALF)
    send(server, upload, HALF, len(DATA))
    server.finished(upload)
    return upload, server.upload("single.txt", DATA)
