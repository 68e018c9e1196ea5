"""The steps of the Dockerfile, run in bare Debians instead of a container engine.

Run by hand, as root: `python -m tests.install.dockerfile_steps`. Then the image is put
to work: it must refuse to start without a token, become healthy, process a picture,
leave no zombies behind and stop when it is told to.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.install.debian import Debian, room

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 30.0
#: what a visitor does, from inside the container's network
VISIT = """
import io, json, sys, time, urllib.request
from PIL import Image

def ask(method, path, body=None):
    headers = {"Authorization": "Bearer a-token-for-the-test"}
    url = "http://127.0.0.1:8080" + path
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()

picture = io.BytesIO()
Image.new("RGB", (1200, 900), "teal").save(picture, "PNG")
job = json.loads(ask("PUT", "/upload/teal.png", picture.getvalue()))["jobId"]
for _ in range(400):
    found = json.loads(ask("GET", "/status/" + job))
    if found["status"] in {"COMPLETED", "FAILED", "REJECTED"}:
        break
    time.sleep(0.05)
assert found["status"] == "COMPLETED", found
assert len(ask("GET", found["downloadUrls"]["thumbnail"])) > 100
print("visited")
"""

#: instructions that only set a field of `Image`
_WORDS = {"USER": "user", "WORKDIR": "folder"}
_FOR_ENGINES = {"ARG", "EXPOSE", "STOPSIGNAL", "VOLUME"}


@dataclass(slots=True, kw_only=True)
class Image:
    """A tree, and what the Dockerfile has said about it so far."""

    debian: Debian
    user: str = "root"
    folder: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Where the tree lies."""
        return self.debian.root


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction of a Dockerfile with its argument."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def build(folder: Path) -> Image:
    """Build the image in *folder*; return its last stage."""
    stages: dict[str, Image] = {}
    image: Image | None = None
    for name, rest in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        if name == "FROM":
            base, _, label = rest.partition(" AS ")
            if base != "debian:bookworm-slim":
                sys.exit(f"these steps know no image called {base}")
            root = folder / f"stage-{len(stages)}"
            image = Image(debian=Debian.make(root))
            stages[label or str(len(stages))] = image
        elif image is not None:
            step(image, name, rest, stages)
    if image is None:
        sys.exit("there is no FROM")
    return image


def step(image: Image, name: str, rest: str, stages: dict[str, Image]) -> None:
    """Do one instruction."""
    if name in _WORDS:
        setattr(image, _WORDS[name], rest)
        return
    match name:
        case "RUN":
            env = {"DEBIAN_FRONTEND": "noninteractive", **image.env}
            done = image.debian.run(
                ["sh", "-c", rest], user=image.user, env=env, cwd=image.folder
            )
            if done.returncode:
                sys.exit(f"this step failed: {rest}")
        case "COPY":
            copy(image, shlex.split(rest), stages)
        case "ENV":
            words = (word.partition("=") for word in shlex.split(rest))
            image.env.update({key: value for key, _, value in words})
        case "ENTRYPOINT" | "CMD":
            image.command += json.loads(rest)
        case "HEALTHCHECK":
            image.health = json.loads(rest.partition("CMD ")[2])
        case _:
            if name not in _FOR_ENGINES:
                sys.exit(f"these steps do not know {name}")


def copy(image: Image, words: list[str], stages: dict[str, Image]) -> None:
    """Copy files from the repository (those that git knows) or from another stage."""
    *sources, target = words
    there = image.root / target[1:]
    if sources[0].startswith("--from="):
        stage = stages[sources.pop(0).removeprefix("--from=")]
        there.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", stage.root / sources[0][1:], there], check=True)
        return
    for source in map(Path, sources):
        place = there / source.name if target.endswith("/") else there
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, place, ignore=skip)
        else:
            shutil.copy(ROOT / source, place)


@contextmanager
def running(image: Image, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run the image as an engine would: process 1, a network of its own."""
    command = image.debian.command(
        image.command,
        user=image.user,
        env={**image.env, **env},
        cwd=image.folder,
        network=False,
    )
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield program
    finally:
        # with process 1 goes all that lives in its namespace
        for child in children(program):
            os.kill(child, signal.SIGKILL)
        program.wait()
        if program.stdout is not None:
            program.stdout.close()


def children(program: subprocess.Popen[str]) -> list[int]:
    """Return the ids, out here, of what *program* has started."""
    if program.poll() is not None:
        return []
    listed = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text()
    return [int(one) for one in listed.split()]


def init_of(program: subprocess.Popen[str]) -> int:
    """Return the id that process 1 of the container has out here."""
    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end and program.poll() is None:
        for child in children(program):
            if b"unshare" not in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.05)
    sys.exit("the container did not start")


def inside(
    image: Image, init: int, argv: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run *argv* in the namespaces of a running container."""
    env = [f"{name}={value}" for name, value in image.env.items()]
    enter = ["nsenter", "--target", str(init), "--mount", "--pid", "--net"]
    return subprocess.run(
        [*enter, "chroot", str(image.root), "env", "-i", *env, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def wait_until_healthy(image: Image, init: int, program: subprocess.Popen[str]) -> None:
    """Ask as an engine does, until the answer is yes."""
    end = time.monotonic() + READY_WITHIN_S
    while (done := inside(image, init, image.health)).returncode:
        if time.monotonic() > end or program.poll() is not None:
            for child in children(program):
                os.kill(child, signal.SIGKILL)
            said, _ = program.communicate()
            sys.exit(f"not healthy: {done.stderr}\n{said[-2000:]}")
        time.sleep(0.2)


def zombies(init: int) -> list[str]:
    """Return the dead that nobody has buried, in the container's process namespace."""
    space = Path(f"/proc/{init}/ns/pid").readlink()
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            same = (status.with_name("ns") / "pid").readlink() == space
            text = status.read_text()
        except OSError:
            continue  # it ended meanwhile
        if same and re.search(r"^State:\s+Z", text, re.MULTILINE):
            found.append(text.splitlines()[0])
    return found


#: a parent that leaves a child behind, which soon ends without one
ORPHAN = "import os, time\nif os.fork() == 0:\n    time.sleep(0.3)\n    os._exit(0)\n"


def put_to_work(image: Image) -> None:
    """Do with the image what its users do."""
    with running(image) as refused:
        said, _ = refused.communicate(timeout=READY_WITHIN_S)
        if not refused.returncode or "ASYNCFLOW_TOKEN" not in said:
            sys.exit(f"it starts without a token: {said}")
    with running(image, ASYNCFLOW_TOKEN="a-token-for-the-test") as program:
        init = init_of(program)
        enter = ["nsenter", "--target", str(init), "--net"]
        subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
        wait_until_healthy(image, init, program)
        visited = inside(image, init, ["python", "-c", VISIT])
        if "visited" not in visited.stdout:
            sys.exit(f"no picture was processed: {visited.stderr}")
        for _ in range(20):
            inside(image, init, ["python", "-c", ORPHAN])
        time.sleep(2.0)
        if left := zombies(init):
            sys.exit(f"zombies: {left}")
        os.kill(init, signal.SIGTERM)
        said, _ = program.communicate(timeout=READY_WITHIN_S)
        if program.returncode or "server.stopped" not in said:
            sys.exit(f"it did not stop cleanly: {program.returncode}\n{said[-2000:]}")


def main() -> None:
    """Build the image and put it to work."""
    began = time.monotonic()
    with room() as folder:
        image = build(folder)
        put_to_work(image)
    took = time.monotonic() - began
    print(f"the image builds, works and stops ({took:.0f} s)")  # noqa: T201 -- run by hand


if __name__ == "__main__":
    main()
