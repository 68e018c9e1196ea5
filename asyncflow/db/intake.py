"""Transaction bodies of uploads; each runs inside one savepoint."""

import sqlite3
from collections.abc import Sequence

import msgspec

from asyncflow.db import work
from asyncflow.db.base import Change, NewUpload
from asyncflow.db.queries import load
from asyncflow.errors import UploadGone, UploadNotFound
from asyncflow.jobs import UPLOADED, JobState, PlanEntry

SQL = load("uploads.sql")

_encode = msgspec.json.Encoder().encode


def create(db: sqlite3.Connection, new: NewUpload) -> Change:
    """Store the upload and its job."""
    job = db.execute(
        SQL["insert_job"],
        {
            "id": new.id,
            "owner": new.owner,
            "tenant": new.tenant,
            "file_name": new.file_name,
            "declared_type": new.declared_type,
            "length": new.length,
            "metadata": _encode(new.metadata).decode(),
            "now": new.now,
        },
    ).fetchone()[0]
    db.execute(
        SQL["insert_upload"],
        {
            "job": job,
            "key": new.key,
            "length": new.length,
            "raw_metadata": new.raw_metadata,
            "expires": new.expires,
        },
    )
    return Change(job_id=new.id, version=1, state=JobState.UPLOADING)


def _find(db: sqlite3.Connection, pid: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute(SQL["find_upload"], {"pid": pid}).fetchone()
    if row is None:
        raise UploadNotFound
    return row


def accept(
    db: sqlite3.Connection, pid: str, size: int, gates: Sequence[PlanEntry], now: int
) -> Change | None:
    """Make the upload complete and start its job; None: it was complete already."""
    row = _find(db, pid)
    if row["state"] == "ended":
        raise UploadGone
    done = db.execute(SQL["complete_upload"], {"job": row["id"], "size": size})
    if done.rowcount == 0:
        return None
    db.execute(
        SQL["job_uploaded"],
        {
            "job": row["id"],
            "size": size,
            "plan": _encode(gates).decode(),
            "now": now,
        },
    )
    track = work.Tracker(db, row["id"], pid)
    opened, gated = work.write_event(track, 1, UPLOADED, gates, now=now)
    work.count_steps(track, opened, gated)
    if not gated:
        work.pass_gates(track, 1, gates, now)
    work.end_if_over(track, 1, now)
    return track.change()


def end(
    db: sqlite3.Connection, pid: str, state: JobState, code: str, detail: str, now: int
) -> Change | None:
    """End an unfinished upload; None: it was over already."""
    row = _find(db, pid)
    if db.execute(SQL["end_upload"], {"job": row["id"]}).rowcount == 0:
        return None
    track = work.Tracker(db, row["id"], pid)
    track.throw_away(row["key"], is_prefix=False)
    work.close(track, 1, state, {"code": code, "detail": detail, "step": None}, now)
    return track.change()
