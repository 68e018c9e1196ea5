"""Transaction bodies of uploads; each runs inside one savepoint."""

import sqlite3
from collections.abc import Sequence

import msgspec

from asyncflow import uploads
from asyncflow.db import flow
from asyncflow.db.queries import load
from asyncflow.db.records import Change, NewUpload, Once
from asyncflow.errors import (
    KeyReused,
    ServerBusy,
    TooManyUploads,
    UploadComplete,
    UploadGone,
    UploadNotFound,
)
from asyncflow.jobs import UPLOADED, JobState, PlanEntry, lane_of
from asyncflow.uploads import Saying

SQL = load("uploads.sql")

_encode = msgspec.json.Encoder().encode


def create(db: sqlite3.Connection, new: NewUpload) -> tuple[str, Change | None]:
    """Store the upload and its job; return the id, of one that was there as well."""
    there = created_before(db, new.owner, new.tenant, new.once)
    if there is None and new.chosen and _is_taken(db, new.id):
        there = new.id
    if there is not None:
        return there, None
    job = _insert(db, new)
    for n, part in enumerate(new.places):
        db.execute(SQL["insert_place"], {"final": job, "n": n, "part": part})
    if new.places:
        _hold_if_whole(db, job)
    remember_creation(db, new.owner, new.tenant, new.once, job)
    if new.is_part:
        return new.id, None
    return new.id, Change(job_id=new.id, version=1, state=JobState.UPLOADING)


def _is_taken(db: sqlite3.Connection, pid: str) -> bool:
    """Tell whether an upload has a chosen id; False: it may get it.

    Raises:
        UploadGone: one had it. Its bytes, or a request for it, may still be there.
        UploadNotFound: it is none that a client may choose.
    """
    if db.execute(SQL["find_upload"], {"pid": pid}).fetchone():
        return True
    if db.execute(SQL["is_spent"], {"pid": pid}).fetchone():
        raise UploadGone("the upload of this id was deleted: begin with another id")
    if not uploads.is_choosable(pid):
        raise UploadNotFound
    return False


def created_before(
    db: sqlite3.Connection, owner: str, tenant: str, once: Once | None
) -> str | None:
    """Return the job that a request with this Idempotency-Key has created already."""
    if once is None:
        return None
    args = {"owner": owner, "tenant": tenant, "key": once.key}
    return creation(db.execute(SQL["find_creation"], args).fetchone(), once)


def creation(row: sqlite3.Row | None, once: Once) -> str | None:
    """Return the job that a row of `find_creation` names; None: it counts no more."""
    if row is None or row["state"] == "ended":
        return None
    if row["fingerprint"] != once.fingerprint:
        raise KeyReused
    return str(row["pid"])


def remember_creation(
    db: sqlite3.Connection, owner: str, tenant: str, once: Once | None, job: int
) -> None:
    """Keep which job a request with an Idempotency-Key has created."""
    if once is not None:
        row = {"owner": owner, "tenant": tenant, "key": once.key, "job": job}
        row["fingerprint"] = once.fingerprint
        db.execute(SQL["insert_creation"], row)


def _insert(db: sqlite3.Connection, new: NewUpload) -> int:
    added = db.execute(
        SQL["insert_job"],
        {
            "id": new.id,
            "is_part": int(new.is_part),
            "owner": new.owner,
            "tenant": new.tenant,
            "file_name": new.file_name,
            "declared_type": new.declared_type,
            "length": new.length,
            "metadata": _encode(new.metadata).decode(),
            "now": new.now,
            "lane": lane_of(new.tenant, new.owner, new.client),
            "priority": new.priority,
            "pipeline": new.pipeline,
            "request": new.request,
            "client": new.client,
            "client_limit": new.client_limit,
        },
    )
    if not added.rowcount:
        raise TooManyUploads(new.client_limit)
    job = added.lastrowid or 0
    db.execute(
        SQL["insert_upload"],
        {
            "job": job,
            "key": new.key,
            "length": new.length,
            "raw_metadata": new.raw_metadata,
            "expires": new.expires,
            "client": new.client,
            "dialect": new.dialect,
            "parts": new.parts,
            "concat": new.concat,
            "digest": new.digest,
            "has_end": int(new.has_end),
        },
    )
    return int(job)


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
    if row["is_part"]:
        db.execute(SQL["complete_part"], {"job": row["id"], "size": size})
        for found in db.execute(SQL["waiting_for"], {"pid": pid}).fetchall():
            _hold_if_whole(db, found["final"])
        return None
    done = db.execute(SQL["complete_upload"], {"job": row["id"], "size": size})
    if done.rowcount == 0:
        return None
    begun = [entry for entry in gates if entry.on == UPLOADED]
    db.execute(
        SQL["job_uploaded"],
        {
            "job": row["id"],
            "size": size,
            "plan": _encode(gates).decode(),
            "turn": flow.take_turn(db, row["lane"]),
            "open": len(begun),
            "gates": sum(entry.gate for entry in begun),
            "now": now,
        },
    )
    track = flow.Tracker(db, row["id"], pid)
    track.begins = True
    if row["parts"] is not None:
        until = now + uploads.KEEP_PARTS_MS
        track.trash = release_parts(db, row["id"], until, served=True)
    _, gated = flow.write_event(track, 1, UPLOADED, begun, now=now)
    if not gated:
        flow.pass_gates(track, 1, gates, now)
    if not begun:
        flow.end_if_over(track, 1, now)
    return track.change()


def end(
    db: sqlite3.Connection, pid: str, state: JobState, code: str, detail: str, now: int
) -> Change | None:
    """End an unfinished upload; None: it was over, or others end it."""
    row = _find(db, pid)
    track = flow.Tracker(db, row["id"], pid)
    if row["is_part"]:
        finals = db.execute(SQL["finals_of"], {"pid": pid}).fetchall()
        if finals and not row["concat"]:
            return None
        if db.execute(SQL["is_held"], {"pid": pid}).fetchone()["held"]:
            raise ServerBusy("a file is put together of this part: end it after that")
        return _forget_part(track, row["key"], state)
    if db.execute(SQL["end_upload"], {"job": row["id"]}).rowcount == 0:
        return None
    release_parts(db, row["id"], now + uploads.KEEP_PARTS_MS)
    track.throw_away(row["key"], is_prefix=False)
    flow.close(track, 1, state, {"code": code, "detail": detail, "step": None}, now)
    return track.change()


def _forget_part(track: flow.Tracker, key: str, state: JobState) -> Change:
    track.throw_away(key, is_prefix=False)
    track.db.execute(flow.SQL["delete_job"], {"job": track.job})
    return Change(job_id=track.pid, version=2, state=state, trash=True, gone=True)


def _hold_if_whole(db: sqlite3.Connection, final: int) -> None:
    """Let an upload and its parts not expire once all of them are complete."""
    args = {"final": final}
    if db.execute(SQL["hold_whole"], args).rowcount:
        db.execute(SQL["hold_parts"], args)


def release_parts(
    db: sqlite3.Connection, final: int, expires: int, *, served: bool = False
) -> bool:
    """Let go of the parts of an upload that is over; tell whether bytes are given up.

    Those without a name are. The others get a time limit if they had none, or, if they
    have *served*, a new one: *expires*, unless another upload waits for them.
    """
    args = {"final": final, "expires": expires, "served": served}
    db.execute(SQL["release_parts"], args)
    return db.execute(SQL["give_up_parts"], {"final": final}).rowcount > 0


def drop_parts(db: sqlite3.Connection, limit: int) -> list[Change]:
    """Forget at most *limit* parts that were given up."""
    found = db.execute(SQL["given_up_parts"], {"limit": limit}).fetchall()
    return [
        _forget_part(
            flow.Tracker(db, row["id"], row["pid"]), row["key"], JobState.CANCELLED
        )
        for row in found
    ]


def extend(db: sqlite3.Connection, pid: str, expires: int) -> None:
    """Move the end of an upload's time, and of what lives and dies with it."""
    row, args = _find(db, pid), {"pid": pid, "expires": expires}
    db.execute(SQL["extend_upload"], args)
    if row["is_part"] or row["parts"] is not None:
        db.execute(SQL["extend_finals"], args)
        db.execute(SQL["extend_parts"], args)


def set_length(db: sqlite3.Connection, pid: str, length: int, *, is_end: bool) -> bool:
    """Store a length, and that it is the end; False: another one is known."""
    args = {"pid": pid, "length": length, "is_end": int(is_end)}
    if db.execute(SQL["set_length"], args).rowcount == 0:
        return False
    db.execute(SQL["set_size"], args)
    return True


def set_joined(db: sqlite3.Connection, pid: str, at: int) -> None:
    """Store that a joined upload's own blob has its bytes from *at* on.

    Raises:
        UploadGone: it is over.
    """
    if db.execute(SQL["set_joined"], {"pid": pid, "at": at}).rowcount == 0:
        raise UploadGone


def say(db: sqlite3.Connection, pid: str, saying: Saying) -> tuple[bool, Change | None]:
    """Store what is said of an unfinished upload; False: it was not so before."""
    row, before, after = _find(db, pid), saying.before, saying.after
    if after == before or row["state"] != "receiving":
        return True, None
    if (row["metadata"], row["digest"]) != (before.raw_metadata, before.digest):
        return False, None
    job = {"job": row["id"]}
    about = {"raw_metadata": after.raw_metadata, "digest": after.digest}
    db.execute(SQL["set_said"], {**job, **about})
    name = {"name": after.file_name, "kind": after.declared_type}
    db.execute(SQL["set_name"], {**job, **name})
    return True, flow.Tracker(db, row["id"], pid).change()


def take_place(
    db: sqlite3.Connection, pid: str, n: int, part: str, saying: Saying | None
) -> tuple[str | None, Change | None]:
    """Put a part into place *n*; return which part is there, None: see `say`.

    Raises:
        UploadComplete: its places have been given up.
        UploadGone: it has ended.
    """
    row = _find(db, pid)
    if row["state"] == "ended":
        raise UploadGone
    if row["state"] == "complete":
        raise UploadComplete
    args = {"final": row["id"], "n": n}
    there = db.execute(SQL["find_place"], args).fetchone()
    if there is not None:
        return there["part"], None
    was_so, change = (True, None) if saying is None else say(db, pid, saying)
    if not was_so:
        return None, None
    db.execute(SQL["insert_place"], {**args, "part": part})
    db.execute(SQL["hold_nameless"], {"part": part})
    _hold_if_whole(db, row["id"])
    return part, change
