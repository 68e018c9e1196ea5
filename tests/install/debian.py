"""A bare Debian in a folder, for proving what a newcomer's machine does.

Needs root, debootstrap and unshare. What runs inside has namespaces of its own for
mounts and processes, so nothing stays mounted and nothing keeps running. How this
machine reaches a package index (pip's settings, certificates, folders of wheels) is
passed on as it is, whatever it is.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SUITE = "bookworm"
#: one for each suite, made once and kept: a minute and 200 MB
BASES = Path("/var/tmp/asyncflow-debian")
#: how any suite is made that an older debootstrap does not know yet
_ANY_SUITE = "sid"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = re.compile(
    r"PIP_\w+|SSL_CERT_\w+|\w+_CA_BUNDLE|(https?|no)_proxy", re.IGNORECASE
)
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
#: where files go that no package may replace, as certificates would be
_KEPT_FILES = "/usr/local/share/index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Debian:
    """A file system tree to run programs in; *shared* folders are there read-only."""

    root: Path
    shared: tuple[Path, ...] = ()
    index: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path, suite: str = SUITE) -> Self:
        """Make a fresh tree at *root*, with nothing in it but the base system."""
        base = BASES / suite
        if not base.is_dir():
            _debootstrap(base)
        subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
        for file in ("/etc/resolv.conf", "/etc/hosts"):
            shutil.copy(file, root / file[1:])
        index, shared = _index_settings(root)
        return cls(root=root, shared=shared, index=index)

    def command(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        network: bool = True,
    ) -> list[str]:
        """Return how to run *argv* inside, with an environment of *env* alone.

        The program is process 1 of its namespace. Without *network* it has only a
        loopback device, which is down.
        """
        given = {"PATH": PATH, **self.index, **(env or {})}
        mounts = [
            f"mount -t proc proc {self.root}/proc",
            f"mkdir -p {self.root}/dev/shm",
            f"mount -t tmpfs -o mode=1777 shm {self.root}/dev/shm",
            f"mount -t devpts -o newinstance,ptmxmode=666 pts {self.root}/dev/pts",
            *(f"mount --bind -o ro {one} {self.root}{one}" for one in self.shared),
        ]
        inside = ["env", "-i", *(f"{name}={value}" for name, value in given.items())]
        enter = ["chroot", f"--userspec={user}", str(self.root), *inside]
        enter += ["sh", "-c", f'cd {shlex.quote(cwd)} && exec "$@"', "sh", *argv]
        script = " && ".join([*mounts, f"exec {shlex.join(enter)}"])
        spaces = ["--mount", "--pid", "--fork", "--kill-child"]
        if not network:
            spaces.append("--net")
        return ["unshare", *spaces, "sh", "-c", script]

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout_s: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run *argv* inside and return what it said; its exit code is the caller's."""
        print(f"[{user}] {shlex.join(argv)}", flush=True)  # noqa: T201 -- run by hand
        done = subprocess.run(
            self.command(argv, user=user, env=env, cwd=cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        sys.stdout.write(re.sub(r"^", "    ", done.stdout, flags=re.MULTILINE)[-3000:])
        sys.stdout.write(f"\n    exit code {done.returncode}\n")
        return done


@contextmanager
def room() -> Iterator[Path]:
    """Yield an empty folder on the disk where the bases are: trees are copied there."""
    BASES.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BASES) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _debootstrap(base: Path) -> None:
    draft = Path(tempfile.mkdtemp(dir=BASES))
    draft.chmod(0o755)
    the_usual_mirror = ""
    how: list[str | Path] = [base.name, draft, the_usual_mirror, _ANY_SUITE]
    try:
        subprocess.run(["debootstrap", "--variant=minbase", *how], check=True)
        draft.rename(base)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _index_settings(root: Path) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Give *root* this machine's way to a package index; return variables, folders."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = re.findall(r"^(?:global|install)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    found = dict(lines)
    index = {k: v for k, v in os.environ.items() if _PASSED.fullmatch(k)}
    folders: set[Path] = set()
    moved: dict[str, str] = {}
    for word in {_CERTIFICATES, *" ".join([*found.values(), *index.values()]).split()}:
        path = Path(word.removeprefix("file://"))
        if not path.is_absolute():
            continue
        if path.is_file():
            moved[str(path)] = f"{_KEPT_FILES}/{path.name}"
            (root / _KEPT_FILES[1:]).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, f"{root}{_KEPT_FILES}")
        elif path.is_dir() and not path.is_relative_to("/etc"):
            # an index by file:// keeps its files beside its pages
            folders.add(path.parent if word.startswith("file:") else path)
    for folder in folders:
        (root / str(folder)[1:]).mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {_moved(value, moved)}\n" for name, value in found.items()]
    (root / "etc/pip.conf").write_text("".join(["[global]\n", *lines]))
    return {k: _moved(v, moved) for k, v in index.items()}, tuple(sorted(folders))


def _moved(value: str, moved: Mapping[str, str]) -> str:
    return " ".join(moved.get(word, word) for word in value.split())
