-- The first schema. Times are milliseconds since 1970 (UTC) unless a name says more.

CREATE TABLE job(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  pid TEXT NOT NULL UNIQUE,                    -- the public id, equal to the upload's
  is_part INTEGER NOT NULL DEFAULT 0,          -- holds the bytes of a part: never a job
  owner TEXT NOT NULL,
  tenant TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN(
    'UPLOADING','PENDING','PROCESSING','COMPLETED','FAILED','REJECTED','CANCELLED')),
  run INTEGER NOT NULL DEFAULT 1,              -- a retry starts the next run
  open INTEGER NOT NULL DEFAULT 0 CHECK(open>=0),    -- steps of this run not yet over
  gates INTEGER NOT NULL DEFAULT 0 CHECK(gates>=0),  -- of those, gates
  version INTEGER NOT NULL DEFAULT 1,          -- grows with each visible change
  file_name TEXT NOT NULL,
  declared_type TEXT NOT NULL,
  media_type TEXT,                             -- what identify found
  size INTEGER,                                -- bytes; unknown while a length is deferred
  metadata TEXT NOT NULL DEFAULT '{}',         -- JSON object of the client's
  plan TEXT NOT NULL DEFAULT '[]',             -- JSON array of jobs.PlanEntry
  facts TEXT NOT NULL DEFAULT '{}',            -- JSON object: consumer -> its facts
  error TEXT,                                  -- JSON {code, detail, step}
  created INTEGER NOT NULL,
  uploaded INTEGER,
  accepted INTEGER,                            -- when the last gate said yes
  started INTEGER,
  finished INTEGER
) STRICT;
CREATE INDEX job_state ON job(state, id) WHERE is_part=0;
CREATE INDEX job_listed ON job(id) WHERE is_part=0;

CREATE TABLE upload(
  job_id INTEGER PRIMARY KEY REFERENCES job(id) ON DELETE CASCADE,
  key TEXT NOT NULL UNIQUE,
  length INTEGER,                              -- NULL: not announced
  metadata TEXT NOT NULL DEFAULT '',           -- Upload-Metadata as it came
  state TEXT NOT NULL CHECK(state IN('receiving','complete','ended')),
  expires INTEGER,                             -- of a part also when it is complete
  client TEXT NOT NULL DEFAULT '',             -- who is counted for it while it is open
  dialect TEXT NOT NULL DEFAULT '',            -- how it was created: tus, ietf or neither
  parts INTEGER,                               -- joined from so many; NULL: from bytes
  concat TEXT NOT NULL DEFAULT '',             -- Upload-Concat as it came
  digest TEXT NOT NULL DEFAULT '',             -- what the whole must have: name:hex
  checked_from INTEGER                         -- behind this nothing is vouched for yet
) STRICT;
CREATE INDEX upload_timed ON upload(expires) WHERE expires IS NOT NULL;
CREATE INDEX upload_open ON upload(client) WHERE state='receiving';

-- Which part lies where in an upload that is joined from parts.
CREATE TABLE place(
  final INTEGER NOT NULL REFERENCES upload(job_id) ON DELETE CASCADE,
  n INTEGER NOT NULL,                          -- from 0
  part TEXT NOT NULL,                          -- the part's public id
  PRIMARY KEY(final, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX place_part ON place(part);

-- Idempotency-Key: which upload a request has created already.
CREATE TABLE creation(
  owner TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,                   -- of the request
  job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
  PRIMARY KEY(owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX creation_job ON creation(job_id);

CREATE TABLE event(
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
  run INTEGER NOT NULL,
  type TEXT NOT NULL,
  data TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX event_job ON event(job_id, seq);
-- A run ends once, whoever says so.
CREATE UNIQUE INDEX event_terminal ON event(job_id, run)
  WHERE type IN('job.completed','job.failed','job.rejected','job.cancelled');

CREATE TABLE step(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
  event_seq INTEGER NOT NULL,
  consumer TEXT NOT NULL,
  run INTEGER NOT NULL,
  state TEXT NOT NULL CHECK(state IN(
    'ready','running','retrying','done','skipped','dead','cancelled')),
  gate INTEGER NOT NULL,
  required INTEGER NOT NULL,
  priority INTEGER NOT NULL,                   -- smaller is sooner
  max_attempts INTEGER NOT NULL,
  options TEXT NOT NULL,
  run_at INTEGER NOT NULL,                     -- not before, while retrying
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
-- Partial: the claim stays flat however many finished steps there are.
CREATE INDEX step_ready ON step(consumer, priority, id) WHERE state='ready';
CREATE INDEX step_due ON step(run_at) WHERE state='retrying';
CREATE INDEX step_lease ON step(lease_until) WHERE state='running';
CREATE INDEX step_dead ON step(consumer, id) WHERE state='dead';
CREATE INDEX step_job ON step(job_id, id);

-- Every attempt that did not succeed, for ever: why a dead letter is dead.
CREATE TABLE attempt(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  step_id INTEGER NOT NULL REFERENCES step(id) ON DELETE CASCADE,
  run INTEGER NOT NULL,
  verdict TEXT NOT NULL,
  code TEXT NOT NULL,
  detail TEXT NOT NULL,
  worker TEXT,
  started INTEGER,
  finished INTEGER NOT NULL
) STRICT;
CREATE INDEX attempt_step ON attempt(step_id, id);

CREATE TABLE derivative(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
  step_id INTEGER NOT NULL REFERENCES step(id) ON DELETE CASCADE,
  token INTEGER NOT NULL,
  consumer TEXT NOT NULL,
  name TEXT NOT NULL,
  key TEXT NOT NULL UNIQUE,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  facts TEXT NOT NULL,
  at INTEGER NOT NULL,
  UNIQUE(job_id, name)
) STRICT;
CREATE INDEX derivative_step ON derivative(step_id);

-- Keys whose bytes nothing refers to any more; the janitor empties it.
CREATE TABLE trash(
  key TEXT PRIMARY KEY,
  is_prefix INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which consumers exist, also those whose code runs on another host.
CREATE TABLE consumer(
  name TEXT PRIMARY KEY,
  definition TEXT NOT NULL,                    -- JSON of jobs.Subscription
  seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Steps per consumer and state, kept by triggers: no GROUP BY over history.
CREATE TABLE tally(
  consumer TEXT NOT NULL,
  state TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY(consumer, state)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER step_added AFTER INSERT ON step BEGIN
  INSERT INTO tally VALUES(new.consumer, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER step_moved AFTER UPDATE OF state ON step WHEN old.state <> new.state
BEGIN
  UPDATE tally SET n = n - 1 WHERE consumer = old.consumer AND state = old.state;
  INSERT INTO tally VALUES(new.consumer, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER step_removed AFTER DELETE ON step BEGIN
  UPDATE tally SET n = n - 1 WHERE consumer = old.consumer AND state = old.state;
END;

-- Bytes of originals and derivatives, kept by triggers for the same reason.
CREATE TABLE stored(id INTEGER PRIMARY KEY CHECK(id=1), bytes INTEGER NOT NULL) STRICT;
INSERT INTO stored VALUES(1, 0);
CREATE TRIGGER upload_completed AFTER UPDATE OF state ON upload
  WHEN new.state = 'complete' AND old.state <> 'complete'
BEGIN
  UPDATE stored SET bytes = bytes + new.length;
END;
CREATE TRIGGER upload_removed AFTER DELETE ON upload WHEN old.state = 'complete' BEGIN
  UPDATE stored SET bytes = bytes - old.length;
END;
CREATE TRIGGER derivative_added AFTER INSERT ON derivative BEGIN
  UPDATE stored SET bytes = bytes + new.size;
END;
CREATE TRIGGER derivative_replaced AFTER UPDATE OF size ON derivative BEGIN
  UPDATE stored SET bytes = bytes - old.size + new.size;
END;
CREATE TRIGGER derivative_removed AFTER DELETE ON derivative BEGIN
  UPDATE stored SET bytes = bytes - old.size;
END;

-- One row that a probe may write to see whether writing works again.
CREATE TABLE pulse(id INTEGER PRIMARY KEY CHECK(id=1), at INTEGER NOT NULL) STRICT;
INSERT INTO pulse VALUES(1, 0);
