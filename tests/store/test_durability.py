"""What the local store asks of the kernel before it says that something is safe."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from asyncflow.store.local import LocalStore

def told(what):
    os.write(2, f"TOLD {what}".encode())

async def main():
    store = LocalStore(Path(sys.argv[1]) / "store")
    await store.create("raw/abcd", length=100_000)
    told("created")
    writer = await store.append("raw/abcd", 0)
    await writer.write(b"x" * 50_000)
    await writer.sync()
    told("synced")
    await writer.close()
    with open(sys.argv[0], "rb") as source:
        await store.put("processed/abcd/1-1/a", source.fileno())
    told("put")
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def calls(tmp_path: Path) -> list[str]:
    """Return the system calls of a program that uses a store, in their order."""
    script, trace = tmp_path / "program.py", tmp_path / "trace"
    script.write_text(PROGRAM)
    wanted = "trace=mkdirat,openat,pwrite64,write,fsync,fdatasync,fallocate,ioctl"
    subprocess.run(
        [
            *("strace", "-f", "-y", "-s", "20", "-o", str(trace), "-e", wanted),
            *(sys.executable, str(script), str(tmp_path)),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=100,
    )
    return _whole(trace.read_text())


def _whole(text: str) -> list[str]:
    """Return finished calls only, at the place where they ended."""
    begun: dict[str, str] = {}
    found: list[str] = []
    for line in text.splitlines():
        thread, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            found.append(begun.pop(thread) + resumed[1])
        else:
            found.append(call)
    return found


def between(calls: list[str], after: str | None, until: str) -> str:
    """Return the calls after one thing was told and until another was."""
    texts = [n for n, call in enumerate(calls) if "TOLD" in call]
    marks = {calls[n].split("TOLD ")[1].split('"')[0]: n for n in texts}
    start = 0 if after is None else marks[after]
    return "\n".join(calls[start : marks[until]])


def in_order(text: str, *patterns: str) -> bool:
    """Tell whether all patterns occur, each behind the one before it."""
    return re.search(".*".join(patterns), text, re.DOTALL) is not None


@pytest.mark.needs("strace")
def test_nothing_is_told_before_it_is_on_stable_storage(calls: list[str]) -> None:
    created = between(calls, None, "created")
    assert in_order(created, r"mkdirat\(.*?\"raw\"", r"fsync\(\d+<[^>]*/store>\) += 0")
    assert in_order(created, r"mkdirat\(.*?\"cd\"", r"fsync\(\d+<[^>]*/raw>\) += 0")
    assert in_order(
        created, r"openat\([^\n]*O_EXCL", r"fsync\(\d+<[^>]*/store/raw/cd>\) += 0"
    )
    synced = between(calls, "created", "synced")
    assert in_order(
        synced, r"pwrite64\([^\n]*raw/cd/abcd", r"fdatasync\([^\n]*/raw/cd/abcd>\) += 0"
    )
    put = between(calls, "synced", "put")
    assert in_order(
        put,
        r"openat\([^\n]*O_EXCL",
        r"fdatasync\([^\n]*/1-1/a>\) += 0",
        r"fsync\([^\n]*/cd/abcd/1-1>\) += 0",
    )


@pytest.mark.needs("strace")
def test_blobs_are_created_privately_and_without_following_links(
    calls: list[str],
) -> None:
    made = [call for call in calls if "O_EXCL" in call and "/store" in call]
    assert made
    for call in made:
        assert "O_NOFOLLOW" in call
        assert "O_CLOEXEC" in call
        assert ", 0600)" in call
