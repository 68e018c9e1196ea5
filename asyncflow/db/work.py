"""Transaction bodies that claim steps and end attempts; each runs in one savepoint.

What is here reads the true rows, asks the rules of `asyncflow.jobs`, and writes what
they say; what follows for the job is done by `flow`.
"""

import dataclasses
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from asyncflow import causes, events, jobs
from asyncflow.db.flow import (
    SQL,
    Tracker,
    close,
    end_step,
    give_up_files,
    to_json,
    write_event,
)
from asyncflow.db.fronts import Lane, next_steps
from asyncflow.db.records import Change, Claimed, Demand, Ended, Published
from asyncflow.db.rows import plan_of, step_view
from asyncflow.errors import OutputRefused
from asyncflow.jobs import (
    Failures,
    JobKind,
    JobState,
    Limits,
    StepState,
    Verdict,
)


def claim(db: sqlite3.Connection, demand: Demand) -> tuple[list[Claimed], list[Change]]:
    """Take the ready steps that are next: by priority, then by lane."""
    db.execute(SQL["due_steps"], {"now": demand.now})
    turns = next_steps(db, demand)
    wants = to_json(list(demand.wants))
    for name, lane in turns.lanes.items():
        _serve(db, name, lane, wants)
    if turns.steps:
        db.execute(SQL["advance"], {"tag": turns.latest})
    taken = [_claim_one(db, step, tag, demand) for step, tag in turns.steps]
    return (
        [one for one, _change in taken],
        [change for _one, change in taken if change is not None],
    )


def _serve(db: sqlite3.Connection, name: str, lane: Lane, wants: str) -> None:
    """Store that a lane has had a turn, before its steps are claimed."""
    served = {
        "wants": wants,
        "lane": name,
        "tag": lane.tag,
        "served_round": lane.served_round,
        "served_tag": lane.served_tag,
    }
    if not db.execute(SQL["serve_lane"], served).rowcount:
        db.execute(SQL["begin_lane"], served)
    db.execute(SQL["serve_front"], served)


def _claim_one(
    db: sqlite3.Connection, step: int, tag: int, demand: Demand
) -> tuple[Claimed, Change | None]:
    """Claim one step; return it, and what that changed about its job."""
    row = db.execute(SQL["step_to_claim"], {"step": step}).fetchone()
    token, kind = row["token"] + 1, JobKind(row["kind"])
    args = {
        "step": step,
        "token": token,
        "lease_until": demand.lease_until,
        "worker": demand.worker,
        "now": demand.now,
    }
    db.execute(SQL["claim_step"], args)
    claimed = Claimed(
        step_id=step,
        token=token,
        job_id=row["pid"],
        consumer=row["consumer"],
        tenant=row["tenant"],
        kind=kind,
        attempt=token,
        gate=bool(row["gate"]),
        detached=bool(row["detached"]),
        pipeline=row["pipeline"],
        payload=row["payload"],
        key=row["key"],
        size=row["size"],
        file_name=row["file_name"],
        declared_type=row["declared_type"],
        media_type=row["media_type"],
        metadata=msgspec.json.decode(row["metadata"]),
        facts=msgspec.json.decode(row["facts"]),
        options=msgspec.json.decode(row["options"]),
        request=row["request"],
        place=(row["priority"], tag),
    )
    if claimed.detached:
        # a replay changes nothing about its job
        return claimed, None
    db.execute(SQL["claim_job"], {"job": row["job_id"], "now": demand.now})
    state, failures, began = StepState.RUNNING, row["failures"], demand.now
    seen = (claimed.consumer, state, failures, row["required"], row["error"], began)
    change = Change(
        job_id=claimed.job_id,
        version=row["version"] + 1,
        kind=kind,
        state=JobState.PROCESSING,
        steps=(step_view(*seen, None, row["run_at"]),),
    )
    return claimed, change


def publish(
    db: sqlite3.Connection, step: int, token: int, made: Published, now: int
) -> Change | None:
    """Make a derivative visible; None: the token is stale."""
    row = db.execute(SQL["owned_step"], {"step": step, "token": token}).fetchone()
    if row is None:
        return None
    track = Tracker(db, row["job_id"], row["pid"])
    if not _store(track, row, token, made, now):
        raise OutputRefused(f"another step of this job already made {made.name!r}")
    track.touch(step)
    return track.change()


def _store(
    track: Tracker,
    row: sqlite3.Row,
    token: int,
    made: Published,
    now: int,
) -> bool:
    """Write a derivative's row; False: its name is taken by somebody else's file.

    It replaces what its own consumer has made before, be it by a replay.
    """
    args = {
        "job": row["job_id"],
        "step": row["id"],
        "token": token,
        "consumer": row["consumer"],
        "name": made.name,
        "key": made.key,
        "media_type": made.media_type,
        "size": made.size,
        "length": made.size if made.length is None else made.length,
        "coding": made.coding,
        "sha256": made.sha256,
        "plain_sha256": made.plain_sha256,
        "facts": to_json(made.facts),
        "now": now,
    }
    old = track.db.execute(SQL["take_derivative"], args).fetchone()
    if old is not None and old["key"] != made.key:
        track.throw_away(old["key"], is_prefix=False)
    return track.db.execute(SQL["insert_derivative"], args).rowcount == 1


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
    if row["detached"]:
        return _settle_replay(track, row, token, ended, limits, now)
    state = _end_attempt(track, row, token, ended, limits, now)
    _after_step(track, row, state, ended, now)
    return state, track.change()


def _settle_replay(
    track: Tracker,
    row: sqlite3.Row,
    token: int,
    ended: Ended,
    limits: Limits,
    now: int,
) -> tuple[StepState, Change]:
    """End an attempt of a replay: it gives its job files and facts, nothing else."""
    if ended.verdict is Verdict.DONE:
        args = {"job": row["job_id"], "consumer": row["consumer"]}
        others = {name for (name,) in track.db.execute(SQL["others_files"], args)}
        if others.isdisjoint(made.name for made in ended.made):
            for made in ended.made:
                _store(track, row, token, made, now)
            _store_facts(track, row, dataclasses.replace(ended, plan=None))
        else:
            ended = dataclasses.replace(
                ended,
                verdict=Verdict.ERROR,
                code="bad_output",
                detail="another step of this job has made a file of this name",
            )
    state = _end_attempt(track, row, token, ended, limits, now)
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
        ended.verdict,
        before,
        allowed,
        spread=ended.spread,
        after_s=ended.after_s,
        waits=1 + _waits(track, row, ended.verdict),
    )
    state, over = following.state, following.state.is_final
    if state is StepState.DEAD:
        track.died.append((row["consumer"], ended.verdict))
    error = None
    if ended.verdict is not Verdict.DONE and ended.code:
        error = to_json({"code": ended.code, "detail": ended.detail})
    failed, finished = following.failures, now if over else None
    run_at = now + round(following.delay_s * 1000)
    track.db.execute(
        SQL["step_ended"],
        {
            "step": row["id"],
            "state": state,
            "attempts": failed.attempts,
            "lost": failed.lost,
            "interrupted": failed.interrupted,
            "run_at": run_at,
            "finished": finished,
            "error": error,
        },
    )
    if not row["detached"]:
        failures, began = failed.attempts + failed.lost, row["started"]
        seen = (row["consumer"], state, failures, row["required"], error, began)
        track.touch(row["id"], step_view(*seen, finished, run_at))
    if state is StepState.RETRYING:
        track.due.append((row["consumer"], following.delay_s))
    if state is StepState.READY:
        track.ring.add(row["consumer"])
    if ended.verdict is not Verdict.DONE:
        _write_off(track, row, token, ended, now)
    return state


def _waits(track: Tracker, row: sqlite3.Row, verdict: Verdict) -> int:
    """Return how often the step has asked for another time in this run, before now."""
    if verdict is not Verdict.TRY_LATER:
        return 0
    args = {"step": row["id"], "run": row["run"]}
    found: int = track.db.execute(SQL["count_waits"], args).fetchone()[0]
    return found


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
            "detail": causes.joined(ended.detail, ended.cause, ended.trace),
            "worker": row["worker"],
            "started": row["started"],
            "now": now,
        },
    )
    give_up_files(track, row["id"], token)


def _after_step(
    track: Tracker, row: sqlite3.Row, state: StepState, ended: Ended, now: int
) -> None:
    """Do what a step's new state means for its job."""
    if not state.is_final:
        return
    error = {"code": ended.code, "detail": ended.detail}
    if state is StepState.DEAD and row["gate"]:
        no = ended.verdict is Verdict.BAD_FILE
        final = JobState.REJECTED if no else JobState.FAILED
        kind = events.of_step(row["consumer"], state)
        write_event(track, row["run"], kind, (), now=now)
        close(track, row["run"], final, {**error, "step": row["consumer"]}, now)
        return
    plan = plan_of(row) if ended.plan is None else list(ended.plan)
    if state is StepState.DONE:
        _store_facts(track, row, ended)
    end_step(track, row, state, plan, now=now)


def _store_facts(track: Tracker, row: sqlite3.Row, ended: Ended) -> None:
    if not ended.facts and row["facts"] == "{}" and ended.plan is None:
        return
    facts = msgspec.json.decode(row["facts"])
    facts[row["consumer"]] = ended.facts
    track.db.execute(
        SQL["job_facts"],
        {
            "job": row["job_id"],
            "facts": to_json(facts),
            "media_type": ended.media_type,
            "plan": None if ended.plan is None else to_json(ended.plan),
        },
    )


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
    """End what waits for consumers that nobody has any more: its jobs would hang.

    A file's step is skipped. A task has nothing else: it fails, and can be retried.
    """
    changes = []
    for step, token, consumer, kind in db.execute(SQL["homeless_steps"]).fetchall():
        args = {"step": step, "token": token, "worker": None, "now": now}
        db.execute(SQL["claim_step"], {**args, "lease_until": 0})
        is_file = kind == JobKind.FILE
        ended = Ended(
            verdict=Verdict.SKIPPED if is_file else Verdict.BAD_FILE,
            code="missing_tool",
            detail=f"nothing called {consumer!r} is installed any more",
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
