"""Says what a step left out although it is done, by the facts that it found.

The words are those of the page.
"""

from collections.abc import Iterator, Sequence

import msgspec

from asyncflow.cli.terminal import name_of
from asyncflow.client import Job

# more than these are no list that anybody reads
_MOST_RUNS = 10
# from three pages in a row on, "4 to 6" is shorter
_RUN = 3
_NO_TOOL = "missing_tool"
#: why pages were not read: of one page, of several
_WHY = {
    "crashed": (": the reader crashed on it", ": the reader crashed on them"),
    "damaged": (": it is damaged", ": they are damaged"),
    "timeout": (" in full: it took too long", " in full: they took too long"),
    "truncated": (": it ends too early", ": they end too early"),
    _NO_TOOL: (" in full: a tool for that is not installed",) * 2,
}
#: pages of the searchable PDF that show nothing: one, several
_EMPTY = (("Page", "is empty: it"), ("Pages", "are empty: they"))
#: what could not be made, and why
_OUTPUTS = {"preview": "preview", "searchablePdf": "searchable PDF"}
_WHY_NOT_MADE = {
    "crashed": ": what makes it crashed",
    "damaged": ": the document is damaged",
    "out_of_memory": ": it would be too large",
    "timeout": ": it took too long",
}


class _Unread(msgspec.Struct, frozen=True):
    page: int
    reason: str


class _Unmade(msgspec.Struct, frozen=True):
    output: str
    reason: str


class _Facts(msgspec.Struct, frozen=True, rename="camel"):
    """What `text` says that it could not do."""

    failed_pages: tuple[_Unread, ...]
    failed_outputs: tuple[_Unmade, ...] = ()
    empty_pages: tuple[_Unread, ...] = ()
    missing_languages: tuple[str, ...] = ()
    ocr_pages: int = 0


def gaps(job: Job | None) -> Iterator[str]:
    """Yield a sentence for each thing that is missing; none where nothing is."""
    if job is None:
        return
    for step in job.steps:
        try:
            facts = msgspec.convert(job.facts.get(step.name), _Facts)
        except msgspec.ValidationError:
            continue  # of a step that reads no pages, or somebody's own function
        yield from _sentences(facts)


def _sentences(facts: _Facts) -> Iterator[str]:
    unread: dict[str, list[int]] = {}
    for one in facts.failed_pages:
        unread.setdefault(one.reason, []).append(one.page)
    for why, pages in unread.items():
        what = "Page" if len(pages) == 1 else "Pages"
        yield f"{what} {_listed(_runs(pages))} could not be read{_because(why, pages)}."
    for made in facts.failed_outputs:
        what = _OUTPUTS.get(made.output) or name_of(made.output)
        because = _WHY_NOT_MADE.get(made.reason) or f" ({name_of(made.reason)})"
        yield f"The {what} could not be made{because}."
    if empty := [one.page for one in facts.empty_pages]:
        what, why = _EMPTY[len(empty) > 1]
        shown = f"{what} {_listed(_runs(empty))} of the searchable PDF"
        yield f"{shown} {why} could not be shown."
    # where each page carries its text nobody needs the data
    if facts.missing_languages and (facts.ocr_pages or _NO_TOOL in unread):
        is_one = len(facts.missing_languages) == 1
        codes = _listed([name_of(code) for code in facts.missing_languages])
        yield (
            f"No data for the {'language' if is_one else 'languages'} {codes} is "
            f"installed: text in {'it' if is_one else 'them'} may be wrong or missing."
        )


def _because(why: str, pages: Sequence[int]) -> str:
    words = _WHY.get(why)
    return f" ({name_of(why)})" if words is None else words[len(pages) > 1]


def _runs(pages: Sequence[int]) -> list[str]:
    """Return [2, 4, 5, 6] as "2" and "4 to 6"."""
    found: list[list[int]] = []
    for page in pages:
        if found and page == found[-1][-1] + 1:
            found[-1].append(page)
        else:
            found.append([page])
    shown = found if len(found) <= _MOST_RUNS else found[: _MOST_RUNS - 1]
    rest = sum(map(len, found[len(shown) :]))
    named: list[str] = []
    for run in shown:
        is_long = len(run) >= _RUN
        named += [f"{run[0]} to {run[-1]}"] if is_long else map(str, run)
    return [*named, f"{rest} more"] if rest else named


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
