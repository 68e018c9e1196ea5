"""What follows when something happens to a job: its events, its steps, its end.

Each function is a part of a transaction; the rules themselves are pure and live in
`asyncflow.jobs`.

Theory of operation
-------------------
`open` counts the steps of the current run that are not over. An event creates the steps
that the job's plan subscribes to it, and `open = open - 1 + new` wherever a step ends.
At zero the run is over, in the same transaction; a unique index makes sure that this
happens once.
"""

import dataclasses
import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from asyncflow import events, jobs, uploads
from asyncflow.db.queries import load
from asyncflow.db.records import Change
from asyncflow.db.rows import ready_step, step_view
from asyncflow.jobs import (
    ACCEPTED,
    TERMINAL_EVENTS,
    JobKind,
    JobState,
    PlanEntry,
    StepState,
    Verdict,
)
from asyncflow.views import StepView

SQL = load("steps.sql", "jobs.sql", "uploads.sql")

_encode = msgspec.json.Encoder().encode


def to_json(value: object) -> str:
    """Return *value* as the database keeps it."""
    return _encode(value).decode()


class Tracker:
    """Collects what one transaction changes about one job, for its `Change`."""

    def __init__(self, db: sqlite3.Connection, job: int, pid: str) -> None:
        self.db, self.job, self.pid = db, job, pid
        self.terminal: str | None = None
        #: what people see of the steps that have changed; None: not read yet
        self._steps: dict[int, StepView | None] = {}
        #: the job's run is over, which is a version of its own
        self.is_closed = False
        #: the job begins
        self.begins = False
        self.ring: set[str] = set()
        self.due: list[tuple[str, float]] = []
        self.stop: list[tuple[int, int]] = []
        self.died: list[tuple[str, Verdict]] = []
        self.trash = False

    def touch(self, step: int, view: StepView | None = None) -> None:
        """Note that *step* has changed; *view* is how it is now."""
        self._steps[step] = view

    def throw_away(self, key: str, *, is_prefix: bool) -> None:
        """Hand bytes to the janitor."""
        row = {"key": key, "is_prefix": int(is_prefix)}
        self.db.execute(SQL["throw_away"], row)
        self.trash = True

    def change(self) -> Change:
        """Bump the job's version and return what changed."""
        args = {"job": self.job}
        query = SQL["job_version" if self.is_closed else "touch_job"]
        row = self.db.execute(query, args).fetchone()
        seen = [view or self._view(step) for step, view in self._steps.items()]
        return Change(
            job_id=self.pid,
            version=row["version"],
            kind=JobKind(row["kind"]),
            state=JobState(row["state"]),
            steps=tuple(seen),
            terminal=self.terminal,
            ring=frozenset(self.ring),
            due=tuple(self.due),
            stop=tuple(self.stop),
            died=tuple(self.died),
            trash=self.trash,
            begins=self.begins,
        )

    def _view(self, step: int) -> StepView:
        return step_view(*self.db.execute(SQL["step_view"], {"step": step}).fetchone())


def write_event(
    track: Tracker,
    run: int,
    kind: str,
    plan: Iterable[PlanEntry],
    *,
    now: int,
    data: Mapping[str, object] | None = None,
    afresh: bool = True,
) -> tuple[int, int]:
    """Write an event and the steps it causes; return how many, and how many gates.

    *afresh*: who has done its work for an earlier event like it does it once more.
    """
    row = {"job": track.job, "run": run, "type": kind, "now": now}
    seq = insert_event(track.db, {**row, "data": to_json(data or {})})
    caused = [
        entry
        for entry in plan
        if entry.on == kind and _open_step(track, seq, entry, run, now, afresh=afresh)
    ]
    return len(caused), sum(entry.gate for entry in caused)


def insert_event(db: sqlite3.Connection, row: Mapping[str, object]) -> int:
    """Write an event; return its place in the log."""
    return db.execute(SQL["insert_event"], row).lastrowid or 0


def _open_step(
    track: Tracker, seq: int, entry: PlanEntry, run: int, now: int, *, afresh: bool
) -> bool:
    """Make the entry's step ready; False: it is open, or done and not so *afresh*."""
    args = {
        "job": track.job,
        "seq": seq,
        "consumer": entry.consumer,
        "run": run,
        "gate": entry.gate,
        "required": entry.required,
        "max_attempts": entry.max_attempts,
        "options": to_json(entry.options),
        "now": now,
    }
    # A consumer has one step in a job. Only a retry can cause it a second time: what
    # it works on was not there before, and is now.
    is_first = track.begins and entry.consumer not in track.ring
    known = None
    if not is_first:
        known = track.db.execute(SQL["step_of_consumer"], args).fetchone()
    if known is None:
        step = insert_step(track, seq, entry, run, run_at=now)
        track.touch(step, ready_step(entry))
    elif StepState(known["state"]).is_final and (
        afresh or known["state"] != StepState.DONE
    ):
        step = known["id"]
        give_up_files(track, step, known["token"])
        track.db.execute(SQL["cause_again"], {**args, "step": step})
        track.touch(step)
    else:
        return False
    track.ring.add(entry.consumer)
    return True


def insert_step(
    track: Tracker,
    seq: int,
    entry: PlanEntry,
    run: int,
    *,
    run_at: int,
    is_early: bool = False,
    detached: bool = False,
    lane: str | None = None,
    turn: int | None = None,
) -> int:
    """Write a step that is ready, or, if *is_early*, at *run_at*; return its id.

    *lane* and *turn*: others than its job's.
    """
    args = {
        "job": track.job,
        "seq": seq,
        "consumer": entry.consumer,
        "run": run,
        "state": StepState.WAITING if is_early else StepState.READY,
        "detached": detached,
        "gate": entry.gate,
        "required": entry.required,
        "shift": entry.priority,
        "lane": lane,
        "turn": turn,
        "max_attempts": entry.max_attempts,
        "options": to_json(entry.options),
        "run_at": run_at,
    }
    return track.db.execute(SQL["insert_step"], args).lastrowid or 0


def take_turn(db: sqlite3.Connection, lane: str) -> int:
    """Return the turn of the next job of *lane*."""
    return int(db.execute(SQL["next_turn"], {"lane": lane}).fetchone()["turn"])


def give_up_files(track: Tracker, step: int, token: int) -> None:
    """Forget what an attempt made, and hand its bytes to the janitor."""
    track.db.execute(SQL["drop_derivatives"], {"step": step, "token": token})
    prefix = uploads.attempt_prefix(track.pid, step, token)
    track.throw_away(prefix, is_prefix=True)


def count_steps(track: Tracker, steps: int, gates: int) -> None:
    """Add to the job's open steps and gates."""
    counts = {"job": track.job, "open": steps, "gates": gates}
    track.db.execute(SQL["add_open"], counts)


def pass_gates(track: Tracker, run: int, plan: Iterable[PlanEntry], now: int) -> int:
    """Accept the file, once in a job's life, and open the steps that waited for it.

    Returns how many those are.
    """
    args = {"job": track.job, "now": now}
    if not track.db.execute(SQL["job_accepted"], args).rowcount:
        return 0
    caused, gates = write_event(track, run, ACCEPTED, plan, now=now)
    count_steps(track, caused, gates)
    return caused


def end_step(
    track: Tracker,
    row: sqlite3.Row,
    state: StepState,
    plan: Iterable[PlanEntry],
    *,
    now: int,
) -> None:
    """Write the event of a step that is over, what it causes, and the fan-in.

    *row* has the step and its job's counts.
    """
    run, gate = row["run"], bool(row["gate"])
    kind = events.of_step(row["consumer"], state)
    # what it has not made is nothing new for who has worked without it
    without = jobs.lets_go_on(state, required=bool(row["required"]))
    if without:
        follows = events.of_step(row["consumer"], StepState.DONE)
        plan = [dataclasses.replace(e, on=kind) if e.on == follows else e for e in plan]
    caused, gates = write_event(track, run, kind, plan, now=now, afresh=not without)
    still = row["open"] + caused - 1
    if gate and row["gates"] + gates == 1:
        still += pass_gates(track, run, plan, now)
    if still == 0:
        end_run(track, run, now)
    else:
        count_steps(track, caused - 1, gates - gate)


def end_if_over(track: Tracker, run: int, now: int) -> None:
    """End the run if none of its steps is open."""
    job = track.db.execute(SQL["job_by_id"], {"job": track.job}).fetchone()
    if job["open"] == 0:
        end_run(track, run, now)


def end_run(track: Tracker, run: int, now: int) -> None:
    """End the run, none of whose steps is open any more."""
    row = track.db.execute(SQL["missing_step"], {"job": track.job}).fetchone()
    final = jobs.ends_as(None if row is None else StepState(row["state"]))
    error: dict[str, object] | None = None
    if final is JobState.FAILED:
        error = {**msgspec.json.decode(row["error"] or "{}"), "step": row["consumer"]}
    elif final is JobState.CANCELLED:
        why = {"code": "cancelled", "detail": "somebody cancelled a step that it needs"}
        error = {**why, "step": row["consumer"]}
    write_end(track, run, final, error, now)


def close(
    track: Tracker,
    run: int,
    state: JobState,
    error: Mapping[str, object] | None,
    now: int,
) -> None:
    """End the run as *state*: take back open steps, write the terminal event."""
    for step, token in track.db.execute(
        SQL["cancel_steps"], {"job": track.job, "now": now}
    ).fetchall():
        held = token - 1
        track.touch(step)
        track.stop.append((step, held))
        give_up_files(track, step, held)
    write_end(track, run, state, error, now)


def write_end(
    track: Tracker,
    run: int,
    state: JobState,
    error: Mapping[str, object] | None,
    now: int,
) -> None:
    """Write the job's final state and the run's terminal event."""
    track.is_closed = True
    track.db.execute(
        SQL["close_job"],
        {
            "job": track.job,
            "state": state,
            "now": now,
            "error": None if error is None else to_json(error),
        },
    )
    track.terminal = TERMINAL_EVENTS[state]
    write_event(track, run, track.terminal, (), now=now, data=error)
