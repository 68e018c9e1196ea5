"""Turn rows into what the program speaks of."""

import sqlite3
from typing import Any

import msgspec

from asyncflow import causes, views
from asyncflow.db.records import StoredFile, UploadRow
from asyncflow.jobs import JobKind, JobState, PlanEntry, StepState
from asyncflow.views import (
    AttemptView,
    AuditView,
    DeadView,
    ErrorView,
    EventView,
    FileView,
    JobView,
    RunningView,
    StepView,
)

_plan = msgspec.json.Decoder(list[PlanEntry])


def plan_of(job: sqlite3.Row) -> list[PlanEntry]:
    """Return the job's resolved plan."""
    return _plan.decode(job["plan"])


def _error(text: str | None) -> ErrorView | None:
    return None if text is None else msgspec.json.decode(text, type=ErrorView)


def step_view(  # noqa: PLR0917 -- the columns of a row, in its order
    consumer: str,
    state: str,
    failures: int,
    required: int,
    error: str | None,
    started: int | None,
    finished: int | None,
    run_at: int,
) -> StepView:
    """Return a step as people see it."""
    now = StepState(state)
    return StepView(
        name=consumer,
        status=now,
        progress=100.0 if now is StepState.DONE else 0.0,
        attempts=failures + (now in {StepState.RUNNING, StepState.DONE}),
        required=bool(required),
        error=_error(error),
        started_at=views.timestamp(started),
        finished_at=views.timestamp(finished),
        next_retry=views.timestamp(run_at) if now is StepState.RETRYING else None,
        not_before=views.timestamp(run_at) if now is StepState.WAITING else None,
    )


def ready_step(entry: PlanEntry) -> StepView:
    """Return a step that has just become ready as people see it."""
    return StepView(
        name=entry.consumer, status=StepState.READY, required=entry.required
    )


def upload_row(row: sqlite3.Row) -> UploadRow:
    """Return an upload."""
    return UploadRow(
        seq=row["id"],
        id=row["pid"],
        key=row["key"],
        owner=row["owner"],
        tenant=row["tenant"],
        file_name=row["file_name"],
        declared_type=row["declared_type"],
        length=row["length"],
        raw_metadata=row["metadata"],
        state=row["state"],
        expires=row["expires"],
        job_state=JobState(row["job_state"]),
        version=row["version"],
        dialect=row["dialect"],
        is_part=bool(row["is_part"]),
        parts=row["parts"],
        concat=row["concat"],
        digest=row["digest"],
        has_end=bool(row["has_end"]),
        checked_from=row["checked_from"],
        joined=row["joined"],
        is_taken=bool(row["taken"]),
    )


def job_summary(row: sqlite3.Row) -> JobView:
    """Return a job without its steps and files, as lists show it."""
    return JobView(**_job_fields(row))


def job_view(row: sqlite3.Row) -> JobView:
    """Return a job with all that GET /status shows and the database knows."""
    rows = msgspec.json.decode(row["steps"])
    known = {name for name, *_rest in rows}
    steps = tuple(step_view(*one) for one in rows)
    steps += views.waiting(tuple(plan_of(row)), known)
    files = tuple(
        FileView(
            name=name,
            step=step,
            key=key,
            media_type=kind,
            size=size,
            sha256=sha256 or None,
            facts=facts,
        )
        for name, step, key, kind, size, sha256, facts in msgspec.json.decode(
            row["files"]
        )
    )
    fields = _job_fields(row)
    if JobState(row["state"]) is not JobState.UPLOADING:
        fields["progress"] = views.share_done(steps)
    retries = [s.next_retry for s in steps if s.next_retry is not None]
    return JobView(
        **fields,
        steps=steps,
        files=files,
        next_retry=min(retries, default=None),
        facts=msgspec.json.decode(row["facts"]),
    )


def _job_fields(row: sqlite3.Row) -> dict[str, Any]:
    state = JobState(row["state"])
    finished = views.timestamp(row["finished"])
    ended_well = state is JobState.COMPLETED
    media_type = row["media_type"]
    return {
        "job_id": row["pid"],
        "kind": JobKind(row["kind"]),
        "status": state,
        "file_name": row["file_name"],
        "file_size": row["size"],
        "uploaded_bytes": row["size"] if row["uploaded"] is not None else None,
        "media_type": media_type or row["declared_type"] or None,
        "processing_type": media_type.split("/")[0] if media_type else None,
        "metadata": msgspec.json.decode(row["metadata"]),
        "created_at": views.timestamp(row["created"]),
        "started_at": views.timestamp(row["started"]),
        "completed_at": finished if ended_well else None,
        "failed_at": finished if not ended_well else None,
        "progress": 100.0 if ended_well else 0.0,
        "accepted": row["accepted"] is not None,
        "original_kept": bool(row["original"]),
        "run": row["run"],
        "retry_count": row["run"] - 1,
        "error": _error(row["error"]),
        "version": row["version"],
    }


def attempt(row: sqlite3.Row) -> AttemptView:
    """Return an attempt that did not succeed."""
    detail, cause, trace = causes.parted(row["detail"])
    return AttemptView(
        step=row["consumer"],
        run=row["run"],
        verdict=row["verdict"],
        code=row["code"],
        detail=detail,
        cause=cause or None,
        traceback=trace or None,
        worker=row["worker"],
        started_at=views.timestamp(row["started"]),
        finished_at=views.timestamp(row["finished"]),
    )


def dead_letter(row: sqlite3.Row) -> DeadView:
    """Return a step that failed for good."""
    return DeadView(
        step_id=row["id"],
        step=row["consumer"],
        job_id=row["pid"],
        kind=JobKind(row["kind"]),
        file_name=row["file_name"],
        tenant=row["tenant"],
        failures=row["attempts"] + row["lost"] + row["interrupted"],
        detached=bool(row["detached"]),
        error=_error(row["error"]),
        cause=causes.parted(row["why"] or "")[1] or None,
        finished_at=views.timestamp(row["finished"]),
    )


def running_step(row: sqlite3.Row) -> RunningView:
    """Return a step that runs now."""
    return RunningView(
        step_id=row["id"],
        step=row["consumer"],
        job_id=row["pid"],
        kind=JobKind(row["kind"]),
        file_name=row["file_name"],
        tenant=row["tenant"],
        attempt=row["token"],
        detached=bool(row["detached"]),
        worker=row["worker"],
        started_at=views.timestamp(row["started"]),
    )


def audit(row: sqlite3.Row) -> AuditView:
    """Return something that somebody has done by hand."""
    return AuditView(
        id=row["id"],
        at=views.timestamp(row["at"]),
        actor=row["actor"],
        action=row["action"],
        target=row["target"],
        detail=msgspec.json.decode(row["detail"]),
    )


def event(row: sqlite3.Row) -> EventView:
    """Return an event of a job."""
    return EventView(
        seq=row["seq"],
        type=row["type"],
        run=row["run"],
        at=views.timestamp(row["at"]),
    )


def stored_file(row: sqlite3.Row, name: str) -> StoredFile:
    """Return the file of a job that is called *name*; `original` is the upload."""
    return StoredFile(
        job_id=row["pid"],
        name=name,
        key=row["key"],
        media_type=row["media_type"],
        size=row["size"],
        length=row["length"],
        coding=row["coding"],
        sha256=row["sha256"],
        plain_sha256=row["plain_sha256"],
        file_name=row["file_name"],
        job_state=JobState(row["state"]),
        is_original=name == "original",
        accepted=row["accepted"] is not None,
        at=row["at"],
    )
