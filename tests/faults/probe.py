"""A processor that is told by its file what to do, installed as others' plugins are.

The file is text: `probe`, then lines of a name and a number.
`parts`: how many derivatives to make, each with bytes that no other attempt makes.
`before`, `between`, `after`: seconds to work before, between and after them.
`later`: ask for another time, so many seconds from now, while `until` (Unix time) is
in the future.
"""

from pathlib import Path

_CODE = """
import os
import time

from asyncflow.errors import TryLater
from asyncflow.processors.base import Derivative, Result, processor


def orders(path):
    lines = [line.split() for line in path.read_text().splitlines()]
    return {words[0]: float(words[1]) for words in lines if len(words) == 2}


@processor("probe", accepts=("text/plain",), wall_s=WALL_S)
def probe(work):
    told = orders(work.source)
    work.progress(1.0)
    if time.time() < told.get("until", 0.0):
        raise TryLater(told["later"], "not yet")
    time.sleep(told.get("before", 0.0))
    for number in range(int(told.get("parts", 1))):
        path = work.out / f"part{number}.txt"
        path.write_text(os.urandom(16).hex() + chr(10))
        work.publish(
            Derivative(name=f"part{number}", path=path, media_type="text/plain")
        )
        time.sleep(told.get("between", 0.0))
    time.sleep(told.get("after", 0.0))
    return Result(facts={"parts": told.get("parts", 1)})
"""


def install(folder: Path, *, wall_s: float = 60.0) -> tuple[str, ...]:
    """Install the processor into *folder*; return the command that makes it seen."""
    info = folder / "asyncflow_probe-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: asyncflow-probe\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text("[asyncflow.processors]\nprobe = af_probe\n")
    (folder / "af_probe.py").write_text(_CODE.replace("WALL_S", str(wall_s)))
    return ("env", f"PYTHONPATH={folder}")


def text(**orders: float) -> bytes:
    """Return a file with *orders*."""
    lines = ["probe", *(f"{name} {number}" for name, number in orders.items())]
    return "\n".join([*lines, ""]).encode()
