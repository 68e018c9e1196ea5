"""Who follows whom: what functions declare to listen to, held against each other.

Pure. A function that waits for an event which can never come would wait without a word.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping

from asyncflow import events
from asyncflow.jobs import STEP_ENDINGS, SUBMITTED, Subscription


def followed(on: str) -> str | None:
    """Return the consumer whose step's end the event *on* would be; None: nobody's."""
    name, _, how = on.rpartition(".")
    return name if name and how in STEP_ENDINGS else None


def circles(after: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Return each circle of *after* (who -> after whom) once, its first name twice."""
    told: set[str] = set()
    for start in after:
        seen, at = [start], after[start]
        while at in after and at not in seen:
            seen.append(at)
            at = after[at]
        if at == start and start not in told:
            told.update(seen)
            yield (*seen, start)


def problems(
    consumers: Iterable[Subscription],
    where: Mapping[str, str],
    elsewhere: Iterable[Subscription] = (),
) -> Iterator[str]:
    """Return what cannot come to pass among *consumers*.

    *where* tells by consumer which function of which module it is; those *elsewhere*
    are on other nodes, which answer for them.
    """
    ours = {one.entry.consumer: one for one in consumers}
    known = {one.entry.consumer: one for one in elsewhere} | ours
    after = {}
    for name, one in ours.items():
        first = followed(one.entry.on)
        if first is not None and first in known:
            after[name] = first
        for wrong in _wrong(one, first, known):
            yield f"{name!r} of {where.get(name, 'somewhere')}: {wrong}"
    for circle in circles(after):
        functions = ", ".join(where.get(one, one) for one in circle[1:])
        yield f"{' after '.join(circle)} goes in a circle: {functions}"


def _wrong(
    one: Subscription, first: str | None, known: Mapping[str, Subscription]
) -> Iterator[str]:
    on, takes_files = one.entry.on, bool(one.accepts)
    if first is not None and first in known:
        if takes_files is not bool(known[first].accepts):
            own, other = _kinds(files=takes_files)
            yield f"on is {on!r}, but it works on {own} and {first!r} on {other}"
        return
    if takes_files and not on.startswith("file."):
        yield f"on is {on!r}; {_nobody(first, known) or 'no step of a file ends so'}"
    elif not takes_files and on != SUBMITTED and not _can_be_published(on, known):
        yield f"on is {on!r}, an event that nobody can publish"
    elif not takes_files and first is not None:
        # it may be an event of an application, unless it looks like a slip
        near = difflib.get_close_matches(first, known, n=1)
        if near:
            yield f"on is {on!r}; did you mean {near[0]}.{on.rpartition('.')[2]}?"


def _kinds(*, files: bool) -> tuple[str, str]:
    return ("files", "payloads") if files else ("payloads", "files")


def _can_be_published(on: str, known: Iterable[str]) -> bool:
    # alerts are the one kind of the server's own events that consumers hear
    return events.is_application_type(on, known) or on.startswith("alert.")


def _nobody(name: str | None, known: Iterable[str]) -> str:
    if name is None:
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no consumer called {name!r}{hint}"


def unheard(
    consumers: Iterable[Subscription], elsewhere: Iterable[Subscription] = ()
) -> Iterator[tuple[str, str]]:
    """Return consumers that wait for an end of no step, with the event's type.

    An application may publish such an event; who meant a step would like to know.
    """
    ours = {one.entry.consumer: one.entry.on for one in consumers}
    known = {*ours, *(one.entry.consumer for one in elsewhere)}
    for name, on in ours.items():
        first = followed(on)
        if first is not None and first not in known:
            yield name, on
