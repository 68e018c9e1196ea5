"""How long sound and film last: tinytag reads it from headers, else ffprobe is asked.

tinytag goes first although ffprobe knows more: it is here always, runs in this process,
and takes 3 ms instead of 140 ms of processor time.
"""

import functools
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from asyncflow import sandbox

#: containers that hold media themselves; none that point elsewhere (HLS, concat, …)
_FORMATS: Final = (
    "aac,aiff,asf,avi,flac,flv,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,wav"
)
_WAIT_S: Final = 20.0


def seconds(path: Path) -> float | None:
    """Return the duration of the file at *path*; None when nobody can tell."""
    found = _by_tinytag(path)
    if found is None:
        found = _by_ffprobe(path)
    return found


def _sane(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return float(value)
    return None


def _by_tinytag(path: Path) -> float | None:
    from tinytag import TinyTag  # noqa: PLC0415 -- only few files need it

    try:
        tag = TinyTag.get(path, tags=False, duration=True)
    except Exception:  # noqa: BLE001 -- a parser of hostile files: any failure means "unknown"
        return None
    return _sane(tag.duration)


def _by_ffprobe(path: Path) -> float | None:
    program = shutil.which("ffprobe")
    if program is None:
        return None
    command = [
        program, "-v", "error", "-of", "json", "-show_entries", "format=duration",
        "-protocol_whitelist", "file", "-format_whitelist", _FORMATS, f"file:{path}",
    ]  # fmt: skip
    try:
        answer = subprocess.run(  # noqa: S603 -- fixed arguments
            command,
            capture_output=True,
            check=True,
            timeout=_WAIT_S,
            stdin=subprocess.DEVNULL,
            preexec_fn=functools.partial(sandbox.die_with_parent, os.getpid()),
        )
        return _sane(float(json.loads(answer.stdout)["format"]["duration"]))
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None
