-- Jobs without a file (tasks and application events), turns for fairness, tenants,
-- pauses, replays and an audit. Runs with foreign keys off: `step` is built anew.

ALTER TABLE job ADD COLUMN kind TEXT NOT NULL DEFAULT 'file'
  CHECK(kind IN('file','task','event'));
ALTER TABLE job ADD COLUMN lane TEXT NOT NULL DEFAULT '';   -- whose jobs take turns
ALTER TABLE job ADD COLUMN turn INTEGER NOT NULL DEFAULT 0; -- within all lanes
ALTER TABLE job ADD COLUMN priority INTEGER NOT NULL DEFAULT 0; -- smaller is sooner
ALTER TABLE job ADD COLUMN pipeline TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN payload TEXT;                    -- JSON; of tasks and events

-- The last turn that a lane's jobs have had; a lane that is not ahead has no row.
CREATE TABLE lane(name TEXT PRIMARY KEY, turn INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- How far the turns have come: the latest that was claimed.
CREATE TABLE latest(id INTEGER PRIMARY KEY CHECK(id=1), turn INTEGER NOT NULL) STRICT;
INSERT INTO latest VALUES(1, 0);

DROP TRIGGER step_added;
DROP TRIGGER step_moved;
DROP TRIGGER step_removed;
DROP TABLE tally;

CREATE TABLE step_new(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
  event_seq INTEGER NOT NULL,
  consumer TEXT NOT NULL,
  tenant TEXT NOT NULL,
  run INTEGER NOT NULL,
  state TEXT NOT NULL CHECK(state IN(
    'waiting','ready','running','retrying','done','skipped','dead','cancelled')),
  detached INTEGER NOT NULL DEFAULT 0,         -- a replay: never counts in its job
  gate INTEGER NOT NULL,
  required INTEGER NOT NULL,
  priority INTEGER NOT NULL,                   -- the job's; smaller is sooner
  turn INTEGER NOT NULL,                       -- the job's, shifted by its consumer's
  max_attempts INTEGER NOT NULL,
  options TEXT NOT NULL,
  run_at INTEGER NOT NULL,                     -- not before, while waiting or retrying
  attempts INTEGER NOT NULL DEFAULT 0,         -- failures by kind, this run
  lost INTEGER NOT NULL DEFAULT 0,
  interrupted INTEGER NOT NULL DEFAULT 0,
  token INTEGER NOT NULL DEFAULT 0,            -- fences out a late owner
  lease_until INTEGER,                         -- ms on the owner's monotonic clock
  worker TEXT,
  started INTEGER,
  finished INTEGER,
  error TEXT,                                  -- JSON {code, detail}
  UNIQUE(event_seq, consumer),
  CHECK((state='running')=(lease_until IS NOT NULL))
) STRICT;
INSERT INTO step_new(id, job_id, event_seq, consumer, tenant, run, state, gate, required,
  priority, turn, max_attempts, options, run_at, attempts, lost, interrupted, token,
  lease_until, worker, started, finished, error)
SELECT s.id, s.job_id, s.event_seq, s.consumer, j.tenant, s.run, s.state, s.gate,
  s.required, 0, s.priority, s.max_attempts, s.options, s.run_at, s.attempts, s.lost,
  s.interrupted, s.token, s.lease_until, s.worker, s.started, s.finished, s.error
FROM step s JOIN job j ON j.id = s.job_id;
DROP TABLE step;
ALTER TABLE step_new RENAME TO step;

-- Partial: the claim stays flat however many finished steps there are.
CREATE INDEX step_ready ON step(consumer, tenant, priority, turn, id)
  WHERE state='ready';
CREATE INDEX step_due ON step(run_at) WHERE state IN('waiting','retrying');
CREATE INDEX step_lease ON step(lease_until) WHERE state='running';
CREATE INDEX step_dead ON step(consumer, id) WHERE state='dead';
-- How far a consumer has come in the log: its first step that is not over.
CREATE INDEX step_open ON step(consumer, event_seq)
  WHERE state IN('waiting','ready','running','retrying');
CREATE INDEX step_job ON step(job_id, id);

-- Steps per consumer, tenant and state, kept by triggers: no GROUP BY over history.
CREATE TABLE tally(
  consumer TEXT NOT NULL,
  tenant TEXT NOT NULL,
  state TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY(consumer, tenant, state)
) STRICT, WITHOUT ROWID;
INSERT INTO tally SELECT consumer, tenant, state, count(*) FROM step
  GROUP BY consumer, tenant, state;
CREATE TRIGGER step_added AFTER INSERT ON step BEGIN
  INSERT INTO tally VALUES(new.consumer, new.tenant, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER step_moved AFTER UPDATE OF state ON step WHEN old.state <> new.state
BEGIN
  UPDATE tally SET n = n - 1
    WHERE consumer = old.consumer AND tenant = old.tenant AND state = old.state;
  INSERT INTO tally VALUES(new.consumer, new.tenant, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER step_removed AFTER DELETE ON step BEGIN
  UPDATE tally SET n = n - 1
    WHERE consumer = old.consumer AND tenant = old.tenant AND state = old.state;
END;

-- What an operator has stopped for the time being.
CREATE TABLE pause(
  kind TEXT NOT NULL CHECK(kind IN('consumer','tenant')),
  name TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY(kind, name)
) STRICT, WITHOUT ROWID;

-- Who has done what by hand.
CREATE TABLE audit(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  detail TEXT NOT NULL                         -- JSON object
) STRICT;
