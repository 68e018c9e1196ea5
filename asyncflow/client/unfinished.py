"""Remembers unfinished uploads, so that a later process can continue them.

One small file per upload in `$XDG_STATE_HOME/asyncflow/uploads` (by default
`~/.local/state/asyncflow/uploads`), named by a fingerprint of the server's address, of
the file's path, size and time of change, and of the name and type it is given there. It
holds an address that is as good as a password for that upload, so only its owner may
read it.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

# 30 days: servers give up unfinished uploads much sooner
_FORGOTTEN_AFTER_S = 30 * 86400.0


class Remembered(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where an unfinished upload goes on.

    *once* is the Idempotency-Key of its creation; the address is empty until that was
    answered.
    """

    once: str
    upload_url: str
    path: str


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of this user's unfinished uploads."""
    home = environment.get("XDG_STATE_HOME", "")
    # the specification says that a relative path is to be ignored
    root = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return root / "asyncflow" / "uploads"


def fingerprint(
    server: str,
    path: Path,
    *,
    size: int,
    mtime_ns: int,
    name: str,
    media_type: str | None,
) -> str:
    """Return the name under which this file's upload to this server is remembered."""
    place = os.fspath(path.absolute())
    parts = (server, place, str(size), str(mtime_ns), name, media_type or "")
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


class Unfinished:
    """The remembered uploads in one folder.

    Remembering is a convenience: a folder that cannot be written costs the ability to
    resume in a later process, never the upload.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = folder, now

    def find(self, key: str) -> Remembered | None:
        """Return what is remembered under *key*, if that is readable."""
        try:
            return msgspec.json.decode(self._file(key).read_bytes(), type=Remembered)
        except (OSError, msgspec.MsgspecError):
            return None

    def remember(self, key: str, path: Path, *, once: str, upload_url: str) -> None:
        """Write down where the upload under *key* goes on."""
        shown = os.fspath(path).encode("utf-8", "replace").decode()
        noted = Remembered(once=once, upload_url=upload_url, path=shown)
        text = msgspec.json.encode(noted)
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # NamedTemporaryFile makes files of mode 0600
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as draft:
                draft.write(text)
            Path(draft.name).replace(self._file(key))
            self._forget_old()

    def forget(self, key: str) -> None:
        """Forget the upload under *key*; forgetting twice is not an error."""
        with suppress(OSError):
            self._file(key).unlink(missing_ok=True)

    def _forget_old(self) -> None:
        for file in self._folder.iterdir():
            if self._now() - file.stat().st_mtime > _FORGOTTEN_AFTER_S:
                file.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.json"
