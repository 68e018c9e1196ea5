"""Transaction bodies of what people do to jobs and steps; each in one savepoint."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from asyncflow import uploads
from asyncflow.db import intake
from asyncflow.db.flow import (
    SQL,
    Tracker,
    close,
    count_steps,
    end_if_over,
    end_step,
    give_up_files,
    insert_event,
    insert_step,
    take_turn,
    to_json,
    write_event,
)
from asyncflow.db.oversight import ALERTS_KEPT, AUDIT_KEPT, Cause, Note
from asyncflow.db.records import Change, Submission
from asyncflow.db.rows import plan_of
from asyncflow.errors import (
    JobNotFound,
    JobNotRetryable,
    StepNotFound,
    StepNotOpen,
    StepNotRetryable,
)
from asyncflow.jobs import (
    SUBMITTED,
    JobKind,
    JobState,
    PlanEntry,
    StepState,
    lane_of,
)

T = TypeVar("T")


def submit(db: sqlite3.Connection, new: Submission) -> tuple[str, Change | None]:
    """Store a task or an event as a job; return its id, of one that was there too."""
    there = intake.created_before(db, new.owner, new.tenant, new.once)
    if there is not None:
        return there, None
    kind = SUBMITTED if new.kind is JobKind.TASK else new.name
    first = [entry for entry in new.plan if entry.on == kind]
    row = {
        "id": new.id,
        "kind": new.kind,
        "owner": new.owner,
        "tenant": new.tenant,
        "open": len(first),
        "name": new.name,
        "plan": to_json(new.plan),
        "payload": new.payload,
        "now": new.now,
        "lane": new.lane,
        "turn": take_turn(db, new.lane),
        "priority": new.priority,
        "request": new.request,
    }
    job = db.execute(SQL["submit_job"], row).lastrowid or 0
    intake.remember_creation(db, new.owner, new.tenant, new.once, job)
    track = Tracker(db, job, new.id)
    track.begins = True
    event = {"job": job, "run": 1, "type": kind, "data": "{}", "now": new.now}
    seq = insert_event(db, event)
    run_at = new.run_at or 0
    early = run_at > new.now
    for entry in first:
        insert_step(track, seq, entry, 1, run_at=max(run_at, new.now), is_early=early)
    if not first:
        end_if_over(track, 1, new.now)
        return new.id, track.change()
    names = frozenset(entry.consumer for entry in first)
    delay = (run_at - new.now) / 1000
    return new.id, Change(
        job_id=new.id,
        version=1,
        kind=new.kind,
        state=JobState.PENDING,
        begins=True,
        ring=frozenset() if early else names,
        due=tuple((name, delay) for name in names) if early else (),
    )


def put_note(db: sqlite3.Connection, note: Note) -> int:
    """Keep what somebody does by hand, and only the newest; return the entry's id."""
    of_alerts = note.action.startswith("alert.")
    row = {
        "actor": note.actor,
        "action": note.action,
        "target": note.target,
        "detail": to_json(note.detail),
        "now": note.at,
    }
    entry = db.execute(SQL["insert_audit"], row).lastrowid or 0
    keep = ALERTS_KEPT if of_alerts else AUDIT_KEPT
    db.execute(SQL["forget_audits"], {"keep": keep, "of_alerts": of_alerts})
    return entry


def noted(
    operation: Callable[[sqlite3.Connection], T], note: Note | None
) -> Callable[[sqlite3.Connection], T]:
    """Return *operation* with its *note* in the same transaction."""

    def both(db: sqlite3.Connection) -> T:
        result = operation(db)
        if note is not None:
            put_note(db, note)
        return result

    return both


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
    if not state.is_final:
        raise JobNotRetryable(f"the job is {state}: wait until it is over")
    if not job["original"]:
        raise JobNotRetryable("the original was removed after its time")
    if not _has_its_file(db, pid, JobKind(job["kind"])):
        raise JobNotRetryable("the file was never received in full: upload it again")
    run = db.execute(SQL["reopen_job"], {"job": job["id"]}).fetchone()[0]
    args = {"job": job["id"], "run": run, "now": now}
    reopened = db.execute(SQL["reopen_steps"], args).fetchall()
    if not reopened:
        raise JobNotRetryable("every step of the job succeeded")
    track = Tracker(db, job["id"], pid)
    for step, _consumer, _gate in reopened:
        track.touch(step)
    track.ring |= {consumer for _step, consumer, _gate in reopened}
    gates = sum(gate for _step, _consumer, gate in reopened)
    count_steps(track, len(reopened), gates)
    write_event(track, run, "job.retried", (), now=now)
    return run, track.change()


def _has_its_file(db: sqlite3.Connection, pid: str, kind: JobKind) -> bool:
    if kind is not JobKind.FILE:
        return True
    upload = db.execute(SQL["original_file"], {"pid": pid}).fetchone()
    return bool(upload["upload_state"] == "complete")


def _find_step(db: sqlite3.Connection, step: int) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute(SQL["step_by_id"], {"step": step}).fetchone()
    if row is None:
        raise StepNotFound
    return row


def retry_step(db: sqlite3.Connection, step: int, now: int) -> Change:
    """Give one dead step another chance.

    A gate, and a step of a job that was closed early, take with them what was
    cancelled: nothing may follow a gate that others had to pass as well.
    """
    row = _find_step(db, step)
    if row["state"] != StepState.DEAD:
        raise StepNotRetryable(f"the step is {row['state']}, not dead")
    state, detached = JobState(row["job_state"]), bool(row["detached"])
    alone = state in {JobState.FAILED, JobState.COMPLETED} and not row["gate"]
    if not detached and state.is_final and not alone:
        return retry(db, row["pid"], now)[1]
    track = Tracker(db, row["job_id"], row["pid"])
    track.ring.add(row["consumer"])
    run = row["run"]
    if not detached:
        track.touch(step)
        run = row["job_run"]
        if state.is_final:
            args = {"job": row["job_id"]}
            run = db.execute(SQL["reopen_job"], args).fetchone()["run"]
            write_event(track, run, "job.retried", (), now=now)
        count_steps(track, 1, int(row["gate"]))
    db.execute(SQL["reopen_step"], {"step": step, "run": run, "now": now})
    return track.change()


def cancel_step(db: sqlite3.Connection, step: int, now: int) -> Change:
    """Take one open step back; its job goes on without it, a gate's does not."""
    row = _find_step(db, step)
    if StepState(row["state"]).is_final:
        raise StepNotOpen(f"the step is {row['state']} already")
    detached = bool(row["detached"])
    if not detached and row["gate"]:
        change = cancel(db, row["pid"], now)
        if change is None:
            raise StepNotOpen("its job is over already")
        return change
    track = Tracker(db, row["job_id"], row["pid"])
    db.execute(SQL["cancel_step"], {"step": step, "now": now})
    give_up_files(track, step, row["token"])
    track.stop.append((step, row["token"]))
    if not detached:
        track.touch(step)
        end_step(track, row, StepState.CANCELLED, plan_of(row), now=now)
    return track.change()


def drop_originals(db: sqlite3.Connection, before: int, limit: int) -> list[Change]:
    """Give up the originals of jobs that ended before *before*; results stay."""
    changes = []
    args = {"before": before, "limit": limit}
    for job, pid in db.execute(SQL["old_originals"], args).fetchall():
        track = Tracker(db, job, pid)
        db.execute(SQL["drop_original"], {"job": job})
        if db.execute(SQL["give_up_upload"], {"job": job}).rowcount:
            track.throw_away(uploads.raw_key(pid), is_prefix=False)
        changes.append(track.change())
    return changes


def replay(
    db: sqlite3.Connection, causes: Sequence[Cause], entry: PlanEntry, now: int
) -> list[Change]:
    """Give the jobs of *causes* to a consumer once more, beside their runs."""
    changes = []
    for cause in causes:
        args = {"job": cause.job, "consumer": entry.consumer}
        row = db.execute(SQL["job_by_id"], args).fetchone()
        if row is None or not row["original"]:
            continue  # there is nothing left to work on
        if db.execute(SQL["has_replay"], args).fetchone():
            continue
        track = Tracker(db, cause.job, cause.job_id)
        event = {"job": cause.job, "run": row["run"], "type": "job.replayed"}
        data = {"data": to_json({"consumer": entry.consumer}), "now": now}
        seq = insert_event(db, {**event, **data})
        # it is nobody's work: all replays of a consumer have one lane in each tenant
        lane = lane_of(row["tenant"], f"replay of {entry.consumer}")
        insert_step(
            track,
            seq,
            entry,
            row["run"],
            run_at=now,
            detached=True,
            lane=lane,
            turn=take_turn(db, lane),
        )
        track.ring.add(entry.consumer)
        changes.append(track.change())
    return changes


def cancel(db: sqlite3.Connection, pid: str, now: int) -> Change | None:
    """Close the job as CANCELLED; None: it was over already."""
    job = find_job(db, pid)
    if JobState(job["state"]).is_final:
        return None
    track = Tracker(db, job["id"], pid)
    if db.execute(SQL["end_upload"], {"job": job["id"]}).rowcount:
        track.throw_away(uploads.raw_key(pid), is_prefix=False)
        intake.release_parts(db, job["id"], now + uploads.KEEP_PARTS_MS)
    error = {"code": "cancelled", "detail": "somebody cancelled the job", "step": None}
    close(track, job["run"], JobState.CANCELLED, error, now)
    return track.change()


def delete(db: sqlite3.Connection, pid: str, now: int) -> Change:
    """Forget the job; its bytes go to the trash, and nobody gets its id for a time."""
    job = find_job(db, pid)
    if uploads.is_choosable(pid):
        db.execute(SQL["spend_id"], {"pid": pid, "now": now})
    track = Tracker(db, job["id"], pid)
    running = db.execute(SQL["running_of_job"], {"job": job["id"]}).fetchall()
    track.throw_away(uploads.raw_key(pid), is_prefix=False)
    track.throw_away(uploads.derivative_prefix(pid), is_prefix=True)
    if db.execute(SQL["end_upload"], {"job": job["id"]}).rowcount:
        # what the file was to be joined from goes as well, unless it serves others
        intake.release_parts(db, job["id"], 0)
    db.execute(SQL["delete_job"], {"job": job["id"]})
    return Change(
        job_id=pid,
        version=job["version"] + 1,
        state=JobState.CANCELLED,
        stop=tuple((step, token) for step, token in running),
        trash=True,
        gone=True,
    )
