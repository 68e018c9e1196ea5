r"""Runs a processor on a file, in this process, and holds it to its contract.

For tests of processors inside and outside the tree:

    ran = run_processor(my_processor, Path("photo.jpg"), media_type="image/jpeg")
    assert ran.facts["width"] == 800
    assert ran.files["thumbnail"].read_bytes()[:2] == b"\xff\xd8"
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncflow import reports
from asyncflow.jobs import Verdict
from asyncflow.processors.base import (
    REGISTRY,
    Derivative,
    Result,
    Work,
    options_of,
)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ContractBroken(AssertionError):
    """The processor did what no processor may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a processor did: derivatives in the order they were handed over."""

    facts: Mapping[str, object]
    derivatives: tuple[Derivative, ...]
    published: tuple[str, ...]
    percents: tuple[float, ...]

    @property
    def files(self) -> Mapping[str, Path]:
        """The derivatives' files by name."""
        return {made.name: made.path for made in self.derivatives}


def run_processor(
    process: Callable[[Work], Result],
    path: Path,
    *,
    media_type: str = "application/octet-stream",
    file_name: str | None = None,
    options: Mapping[str, object] | None = None,
    facts: Mapping[str, object] | None = None,
    attempt: int = 1,
    out: Path | None = None,
) -> Ran:
    """Run *process* on the file at *path* and return what it did.

    *out* is an empty folder, by default a new temporary one, that stays. What the
    processor raises passes through. Raise ContractBroken if a derivative does not lie
    in `work.out` or has a bad or doubled name, if facts are not JSON or more than is
    kept, if progress leaves 0 to 100, or if the source was altered.
    """
    out = Path(tempfile.mkdtemp(prefix="asyncflow-")) if out is None else out
    made: list[Derivative] = []
    percents: list[float] = []
    before = _digest(path)
    work = Work(
        source=path,
        out=out,
        file_name=path.name if file_name is None else file_name,
        media_type=media_type,
        options=_options_of(process, options or {}),
        facts=facts or {},
        attempt=attempt,
        progress=percents.append,
        publish=made.append,
    )
    result = process(work)
    published = tuple(one.name for one in made)
    made += result.derivatives
    _check(made, out)
    _check_facts(result.facts)
    if not all(0 <= percent <= 100 for percent in percents):
        raise ContractBroken("progress is a number from 0 to 100")
    if _digest(path) != before:
        raise ContractBroken("the source was altered")
    return Ran(
        facts=result.facts,
        derivatives=tuple(made),
        published=published,
        percents=tuple(percents),
    )


def _options_of(
    process: Callable[[Work], Result], said: Mapping[str, object]
) -> object:
    """Return the options *said* as the processor has declared them."""
    for known in REGISTRY.values():
        if known.run is process:
            return options_of(known, said)
    return said


def _check(made: list[Derivative], out: Path) -> None:
    names = [one.name for one in made]
    if len(set(names)) != len(names):
        raise ContractBroken(f"a derivative's name is used twice: {names}")
    for one in made:
        if not _NAME.fullmatch(one.name):
            raise ContractBroken(f"{one.name!r} is no name for a derivative")
        if one.path.parent != out or one.path.is_symlink() or not one.path.is_file():
            raise ContractBroken(f"{one.path} is not a plain file in work.out")
        _check_facts(one.facts)


def _check_facts(facts: object) -> None:
    said = json.loads(reports.encode(reports.of_facts(facts)))
    if said["verdict"] != Verdict.DONE:
        cause = f" ({said['cause']})" if said["cause"] else ""
        raise ContractBroken(f"{said['detail']}{cause}")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
