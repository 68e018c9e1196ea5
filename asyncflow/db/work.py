"""Transaction bodies that move steps and jobs; each runs inside one savepoint.

The rules themselves are pure and live in `asyncflow.jobs`; what is here reads the true
rows, asks the rules, and writes what they say.

Theory of operation
-------------------
`open` counts the steps of the current run that are not over. Whatever ends a step goes
through `_finish_step`: it writes the step's event, creates the steps that the job's
plan subscribes to that event, and sets `open = open - 1 + new`. At zero the run is
over, in the same transaction; a unique index makes sure that this happens once.
"""

import dataclasses
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from asyncflow import events, jobs, uploads
from asyncflow.db.base import Change, Claimed, Ended, Published
from asyncflow.db.queries import load
from asyncflow.db.rows import plan_of, step_view
from asyncflow.errors import JobNotFound, JobNotRetryable, NameTaken
from asyncflow.jobs import (
    ACCEPTED,
    TERMINAL_EVENTS,
    Failures,
    JobState,
    Limits,
    PlanEntry,
    StepState,
    Verdict,
)

SQL = load("steps.sql", "jobs.sql", "uploads.sql")

_encode = msgspec.json.Encoder().encode


def _json(value: object) -> str:
    return _encode(value).decode()


class Tracker:
    """Collects what one transaction changes about one job, for its `Change`."""

    def __init__(self, db: sqlite3.Connection, job: int, pid: str) -> None:
        self.db, self.job, self.pid = db, job, pid
        self.state = JobState.PROCESSING
        self.terminal: str | None = None
        self.steps: list[int] = []
        self.ring: set[str] = set()
        self.due_s: list[float] = []
        self.stop: list[tuple[int, int]] = []
        self.trash = False

    def throw_away(self, key: str, *, is_prefix: bool) -> None:
        """Hand bytes to the janitor."""
        row = {"key": key, "is_prefix": int(is_prefix)}
        self.db.execute(SQL["throw_away"], row)
        self.trash = True

    def change(self) -> Change:
        """Bump the job's version and return what changed."""
        version, state = self.db.execute(SQL["touch_job"], {"job": self.job}).fetchone()
        seen = [
            step_view(*self.db.execute(SQL["step_view"], {"step": step}).fetchone())
            for step in dict.fromkeys(self.steps)
        ]
        return Change(
            job_id=self.pid,
            version=version,
            state=JobState(state),
            steps=tuple(seen),
            terminal=self.terminal,
            ring=frozenset(self.ring),
            due_s=tuple(self.due_s),
            stop=tuple(self.stop),
            trash=self.trash,
        )


def write_event(
    track: Tracker,
    run: int,
    kind: str,
    plan: Iterable[PlanEntry],
    *,
    now: int,
    data: Mapping[str, object] | None = None,
) -> tuple[int, int]:
    """Write an event and the steps it causes; return how many, and how many gates."""
    row = {"job": track.job, "run": run, "type": kind, "now": now}
    cursor = track.db.execute(SQL["insert_event"], {**row, "data": _json(data or {})})
    seq = cursor.fetchone()[0]
    caused = [
        entry
        for entry in plan
        if entry.on == kind and _open_step(track, seq, entry, run, now)
    ]
    return len(caused), sum(entry.gate for entry in caused)


def _open_step(track: Tracker, seq: int, entry: PlanEntry, run: int, now: int) -> bool:
    """Make the entry's step ready; False: this run has it open already."""
    args = {
        "job": track.job,
        "seq": seq,
        "consumer": entry.consumer,
        "run": run,
        "gate": entry.gate,
        "required": entry.required,
        "priority": entry.priority,
        "max_attempts": entry.max_attempts,
        "options": _json(entry.options),
        "now": now,
    }
    # A consumer has one step in a job. Only a retry can cause it a second time: what
    # it worked on was skipped before, and is there now.
    known = None
    if run > 1:
        known = track.db.execute(SQL["step_of_consumer"], args).fetchone()
    if known is None:
        step = track.db.execute(SQL["insert_step"], args).lastrowid or 0
    elif StepState(known["state"]).is_final:
        step = known["id"]
        _give_up_files(track, step, known["token"])
        track.db.execute(SQL["cause_again"], {**args, "step": step})
    else:
        return False
    track.steps.append(step)
    track.ring.add(entry.consumer)
    return True


def _give_up_files(track: Tracker, step: int, token: int) -> None:
    """Forget what an attempt made, and hand its bytes to the janitor."""
    track.db.execute(SQL["drop_derivatives"], {"step": step, "token": token})
    prefix = uploads.attempt_prefix(track.pid, step, token)
    track.throw_away(prefix, is_prefix=True)


def claim(
    db: sqlite3.Connection,
    consumers: Sequence[str],
    limit: int,
    *,
    worker: str,
    lease_until: int,
    now: int,
) -> tuple[list[Claimed], list[Change]]:
    """Take the most urgent ready steps of *consumers*, at most *limit*."""
    db.execute(SQL["due_steps"], {"now": now})
    found: list[tuple[int, int]] = []
    for consumer in consumers:
        rows = db.execute(SQL["ready_steps"], {"consumer": consumer, "limit": limit})
        found += [(priority, step) for step, priority in rows]
    claimed, changes = [], []
    for _priority, step in sorted(found)[:limit]:
        one, change = _claim_one(db, step, worker, lease_until, now)
        claimed.append(one)
        changes.append(change)
    return claimed, changes


def _claim_one(
    db: sqlite3.Connection, step: int, worker: str, lease_until: int, now: int
) -> tuple[Claimed, Change]:
    args = {"step": step, "lease_until": lease_until, "worker": worker, "now": now}
    taken = db.execute(SQL["claim_step"], args).fetchone()
    job_id, token, consumer, gate, options = taken
    job = db.execute(SQL["claim_job"], {"job": job_id, "now": now}).fetchone()
    key = db.execute(SQL["upload_key"], {"job": job_id}).fetchone()[0]
    claimed = Claimed(
        step_id=step,
        token=token,
        job_id=job["pid"],
        consumer=consumer,
        gate=bool(gate),
        key=key,
        size=job["size"],
        file_name=job["file_name"],
        declared_type=job["declared_type"],
        media_type=job["media_type"],
        metadata=msgspec.json.decode(job["metadata"]),
        facts=msgspec.json.decode(job["facts"]),
        options=msgspec.json.decode(options),
    )
    view = step_view(*db.execute(SQL["step_view"], {"step": step}).fetchone())
    change = Change(
        job_id=job["pid"],
        version=job["version"],
        state=JobState(job["state"]),
        steps=(view,),
    )
    return claimed, change


def publish(
    db: sqlite3.Connection, step: int, token: int, made: Published, now: int
) -> Change | None:
    """Make a derivative visible; None: the token is stale."""
    row = db.execute(SQL["owned_step"], {"step": step, "token": token}).fetchone()
    if row is None:
        return None
    stored = db.execute(
        SQL["insert_derivative"],
        {
            "job": row["job_id"],
            "step": step,
            "token": token,
            "consumer": row["consumer"],
            "name": made.name,
            "key": made.key,
            "media_type": made.media_type,
            "size": made.size,
            "facts": _json(made.facts),
            "now": now,
        },
    )
    if stored.rowcount != 1:
        raise NameTaken(f"another step of this job already made {made.name!r}")
    track = Tracker(db, row["job_id"], row["pid"])
    track.steps.append(step)
    return track.change()


def settle(
    db: sqlite3.Connection,
    step: int,
    token: int,
    ended: Ended,
    *,
    limits: Limits,
    now: int,
) -> tuple[StepState, Change] | None:
    """Store how an attempt ended and all that follows; None: the token is stale."""
    row = db.execute(SQL["owned_step"], {"step": step, "token": token}).fetchone()
    if row is None:
        return None
    track = Tracker(db, row["job_id"], row["pid"])
    state = _end_attempt(track, row, token, ended, limits, now)
    _after_step(track, row, state, ended, now)
    return state, track.change()


def _end_attempt(
    track: Tracker,
    row: sqlite3.Row,
    token: int,
    ended: Ended,
    limits: Limits,
    now: int,
) -> StepState:
    """Write the step's own row and the attempt's history; return the new state."""
    before = Failures(
        attempts=row["attempts"], lost=row["lost"], interrupted=row["interrupted"]
    )
    allowed = Limits(
        attempts=row["max_attempts"], lost=limits.lost, interrupted=limits.interrupted
    )
    following = jobs.after_attempt(
        ended.verdict, before, allowed, spread=ended.spread, after_s=ended.after_s
    )
    state, over = following.state, following.state.is_final
    error = None
    if ended.verdict is not Verdict.DONE and ended.code:
        error = _json({"code": ended.code, "detail": ended.detail})
    track.db.execute(
        SQL["step_ended"],
        {
            "step": row["id"],
            "state": state,
            "attempts": following.failures.attempts,
            "lost": following.failures.lost,
            "interrupted": following.failures.interrupted,
            "run_at": now + round(following.delay_s * 1000),
            "finished": now if over else None,
            "error": error,
        },
    )
    track.steps.append(row["id"])
    if state is StepState.RETRYING:
        track.due_s.append(following.delay_s)
    if state is StepState.READY:
        track.ring.add(row["consumer"])
    if ended.verdict is not Verdict.DONE:
        _write_off(track, row, token, ended, now)
    return state


def _write_off(
    track: Tracker, row: sqlite3.Row, token: int, ended: Ended, now: int
) -> None:
    """Keep why the attempt ended, give up what it made."""
    track.db.execute(
        SQL["insert_attempt"],
        {
            "step": row["id"],
            "run": row["run"],
            "verdict": ended.verdict,
            "code": ended.code,
            "detail": ended.detail,
            "worker": row["worker"],
            "started": row["started"],
            "now": now,
        },
    )
    _give_up_files(track, row["id"], token)


def _after_step(
    track: Tracker, row: sqlite3.Row, state: StepState, ended: Ended, now: int
) -> None:
    """Do what a step's new state means for its job."""
    if not state.is_final:
        return
    gate, error = bool(row["gate"]), {"code": ended.code, "detail": ended.detail}
    if state is StepState.DEAD and gate:
        no = ended.verdict is Verdict.BAD_FILE
        final = JobState.REJECTED if no else JobState.FAILED
        kind = events.of_step(row["consumer"], state)
        write_event(track, row["run"], kind, (), now=now)
        close(track, row["run"], final, {**error, "step": row["consumer"]}, now)
        return
    if state is StepState.DONE:
        _store_facts(track, row, ended)
    _finish_step(track, row, state, gate=gate, now=now)


def _store_facts(track: Tracker, row: sqlite3.Row, ended: Ended) -> None:
    facts = msgspec.json.decode(row["facts"])
    facts[row["consumer"]] = ended.facts
    track.db.execute(
        SQL["job_facts"],
        {
            "job": row["job_id"],
            "facts": _json(facts),
            "media_type": ended.media_type,
            "plan": None if ended.plan is None else _json(ended.plan),
        },
    )


def _finish_step(
    track: Tracker, row: sqlite3.Row, state: StepState, *, gate: bool, now: int
) -> None:
    """Write the event of a step that is over, what it causes, and the fan-in."""
    db, run = track.db, row["run"]
    plan = plan_of(db.execute(SQL["job_by_id"], {"job": row["job_id"]}).fetchone())
    kind = events.of_step(row["consumer"], state)
    if state is StepState.SKIPPED:
        # Who follows a skipped step works on the original instead.
        follows = events.of_step(row["consumer"], StepState.DONE)
        plan = [dataclasses.replace(e, on=kind) if e.on == follows else e for e in plan]
    caused, gates = write_event(track, run, kind, plan, now=now)
    open_gates = count_steps(track, caused - 1, gates - gate)
    if gate and open_gates == 0:
        pass_gates(track, run, plan, now)
    end_if_over(track, run, now)


def count_steps(track: Tracker, steps: int, gates: int) -> int:
    """Add to the job's open steps and gates; return how many gates are open."""
    counts = {"job": track.job, "open": steps, "gates": gates}
    row = track.db.execute(SQL["add_open"], counts).fetchone()
    return int(row["gates"])


def pass_gates(track: Tracker, run: int, plan: Iterable[PlanEntry], now: int) -> None:
    """Accept the file, once in a job's life, and open the steps that waited for it."""
    args = {"job": track.job, "now": now}
    if track.db.execute(SQL["job_accepted"], args).rowcount:
        caused, gates = write_event(track, run, ACCEPTED, plan, now=now)
        count_steps(track, caused, gates)


def end_if_over(track: Tracker, run: int, now: int) -> None:
    """End the run if none of its steps is open."""
    job = track.db.execute(SQL["job_by_id"], {"job": track.job}).fetchone()
    if job["open"] == 0:
        _end_run(track, run, now)


def _end_run(track: Tracker, run: int, now: int) -> None:
    args = {"job": track.job, "run": run}
    dead = track.db.execute(SQL["dead_required"], args).fetchone()["n"]
    final = jobs.ends_as(dead_required=dead)
    error = None
    if final is JobState.FAILED:
        consumer, blamed = track.db.execute(
            SQL["blamed_step"], {"job": track.job}
        ).fetchone()
        error = {**msgspec.json.decode(blamed or "{}"), "step": consumer}
    close(track, run, final, error, now)


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
        track.steps.append(step)
        track.stop.append((step, held))
        _give_up_files(track, step, held)
    track.db.execute(
        SQL["close_job"],
        {
            "job": track.job,
            "state": state,
            "now": now,
            "error": None if error is None else _json(error),
        },
    )
    track.terminal = TERMINAL_EVENTS[state]
    write_event(track, run, track.terminal, (), now=now, data=error)


def beat(
    db: sqlite3.Connection,
    running: Sequence[tuple[int, int]],
    *,
    lease_until: int,
    mono: int,
    now: int,
    limits: Limits,
) -> tuple[list[tuple[int, int]], list[Change]]:
    """Renew our leases first, then free those that nobody renewed."""
    lost = [
        (step, token)
        for step, token in running
        if db.execute(
            SQL["renew_lease"],
            {"step": step, "token": token, "lease_until": lease_until},
        ).rowcount
        == 0
    ]
    over = db.execute(SQL["lost_leases"], {"mono": mono}).fetchall()
    ended = Ended(
        verdict=Verdict.LOST, code="crashed", detail="the step's lease ran out"
    )
    return lost, _free(db, over, ended, limits, now)


def recover(db: sqlite3.Connection, *, limits: Limits, now: int) -> list[Change]:
    """Free every lease: the folder's lock says that their owner is dead."""
    ended = Ended(
        verdict=Verdict.INTERRUPTED,
        code="interrupted",
        detail="the server stopped while this step ran",
    )
    over = db.execute(SQL["running_steps"]).fetchall()
    return _free(db, over, ended, limits, now)


def skip_homeless(db: sqlite3.Connection, now: int) -> list[Change]:
    """Skip what waits for consumers that nobody has any more: its jobs would hang."""
    changes = []
    for step, consumer in db.execute(SQL["homeless_steps"]).fetchall():
        args = {"step": step, "lease_until": 0, "worker": None, "now": now}
        token = db.execute(SQL["claim_step"], args).fetchone()["token"]
        ended = Ended(
            verdict=Verdict.SKIPPED,
            code="missing_tool",
            detail=f"no processor called {consumer!r} is installed any more",
        )
        changes += _free(db, [(step, token)], ended, Limits(), now)
    return changes


def _free(
    db: sqlite3.Connection,
    steps: Iterable[Any],
    ended: Ended,
    limits: Limits,
    now: int,
) -> list[Change]:
    found = [
        settle(db, step, token, ended, limits=limits, now=now) for step, token in steps
    ]
    return [change for one in found if one is not None for change in one[1:]]


def find_job(db: sqlite3.Connection, pid: str) -> sqlite3.Row:
    """Return the job's row. Raise JobNotFound."""
    row: sqlite3.Row | None = db.execute(SQL["job_by_pid"], {"pid": pid}).fetchone()
    if row is None:
        raise JobNotFound
    return row


def retry(db: sqlite3.Connection, pid: str, now: int) -> tuple[int, Change]:
    """Start a new run of what did not succeed; return its number."""
    job = find_job(db, pid)
    state = JobState(job["state"])
    upload = db.execute(SQL["original_file"], {"pid": pid}).fetchone()
    if not state.is_final:
        raise JobNotRetryable(f"the job is {state}: wait until it is over")
    if upload["upload_state"] != "complete":
        raise JobNotRetryable("the file was never received in full: upload it again")
    run = db.execute(SQL["reopen_job"], {"job": job["id"]}).fetchone()[0]
    args = {"job": job["id"], "run": run, "now": now}
    reopened = db.execute(SQL["reopen_steps"], args).fetchall()
    if not reopened:
        raise JobNotRetryable("every step of the job succeeded")
    track = Tracker(db, job["id"], pid)
    track.steps += [step for step, _consumer, _gate in reopened]
    track.ring |= {consumer for _step, consumer, _gate in reopened}
    gates = sum(gate for _step, _consumer, gate in reopened)
    count_steps(track, len(reopened), gates)
    write_event(track, run, "job.retried", (), now=now)
    return run, track.change()


def cancel(db: sqlite3.Connection, pid: str, now: int) -> Change | None:
    """Close the job as CANCELLED; None: it was over already."""
    job = find_job(db, pid)
    if JobState(job["state"]).is_final:
        return None
    track = Tracker(db, job["id"], pid)
    if db.execute(SQL["end_upload"], {"job": job["id"]}).rowcount:
        track.throw_away(uploads.raw_key(pid), is_prefix=False)
    error = {"code": "cancelled", "detail": "somebody cancelled the job", "step": None}
    close(track, job["run"], JobState.CANCELLED, error, now)
    return track.change()


def delete(db: sqlite3.Connection, pid: str) -> Change:
    """Forget the job; its bytes go to the trash."""
    job = find_job(db, pid)
    track = Tracker(db, job["id"], pid)
    running = db.execute(SQL["running_of_job"], {"job": job["id"]}).fetchall()
    track.throw_away(uploads.raw_key(pid), is_prefix=False)
    track.throw_away(uploads.derivative_prefix(pid), is_prefix=True)
    db.execute(SQL["delete_job"], {"job": job["id"]})
    return Change(
        job_id=pid,
        version=job["version"] + 1,
        state=JobState.CANCELLED,
        stop=tuple((step, token) for step, token in running),
        trash=True,
        gone=True,
    )
