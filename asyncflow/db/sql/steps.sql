-- name: insert_step
-- The job lends its tenant, its priority, its lane and its turn. A step that lets newer
-- jobs pass lets those of its own lane pass, as many as there are, and then has a turn
-- for itself. A replay has a lane and a turn of its own.
INSERT INTO step(job_id, event_seq, consumer, tenant, run, state, detached, gate,
  required, priority, lane, turn, round, max_attempts, options, run_at)
SELECT id, :seq, :consumer, tenant, :run, :state, :detached, :gate, :required, priority,
  coalesce(:lane, lane), coalesce(:turn, turn + passed),
  CASE WHEN :turn IS NOT NULL THEN :turn WHEN passed > 0 THEN -1 - :seq ELSE turn END,
  :max_attempts, :options, :run_at
FROM (SELECT *, CASE WHEN :shift <= 0 THEN :shift ELSE min(:shift, max(0, coalesce(
    (SELECT lane.turn FROM lane WHERE lane.name = job.lane), 0) - turn)) END AS passed
  FROM job WHERE id = :job);

-- name: step_of_consumer
SELECT id, state, token FROM step
WHERE job_id = :job AND consumer = :consumer AND detached = 0;

-- name: cause_again
-- A later run's event causes a step that an earlier run has had.
UPDATE step SET state = 'ready', event_seq = :seq, run = :run, gate = :gate,
  required = :required, max_attempts = :max_attempts, options = :options, run_at = :now,
  attempts = 0, lost = 0, interrupted = 0, error = NULL, started = NULL, finished = NULL
WHERE id = :step;

-- name: insert_event
INSERT INTO event(job_id, run, type, data, at) VALUES(:job, :run, :type, :data, :now);

-- name: due_steps
-- Steps whose time has come become ready.
UPDATE step SET state = 'ready' WHERE state IN('waiting','retrying') AND run_at <= :now;

-- name: running_tenants
-- Reads what runs, by the partial index, and nothing else.
SELECT tenant, count(*) AS n FROM step INDEXED BY step_lease WHERE state = 'running'
GROUP BY tenant;

-- name: fronts
-- Which lanes' first steps are next for a consumer, behind one of them.
SELECT priority, tag, turn, step, round, lane, tenant FROM front
WHERE consumer = :consumer
  AND (priority, tag, turn, step) > (:priority, :tag, :turn, :step)
ORDER BY priority, tag, turn, step LIMIT :limit;

-- name: behind
-- The next ready steps of one consumer and lane; the partial index keeps it flat.
SELECT priority, :tag, turn, id, round, lane, tenant FROM step
WHERE consumer = :consumer AND lane = :lane AND state = 'ready'
  AND (priority, turn, id) > (:priority, :turn, :step)
ORDER BY priority, turn, id LIMIT :limit;

-- name: step_to_claim
-- A ready step, with all that working on it needs.
SELECT s.job_id, s.token, s.consumer, s.tenant, s.gate, s.detached, s.options,
  s.priority,
  s.attempts + s.lost AS failures, s.required, s.error, s.run_at, j.pid, j.kind,
  j.version, j.size, j.file_name, j.declared_type, j.media_type, j.metadata,
  j.facts, j.payload, j.pipeline, j.request, u.key
FROM step s JOIN job j ON j.id = s.job_id LEFT JOIN upload u ON u.job_id = j.id
WHERE s.id = :step;

-- name: claim_step
-- The token grows with each claim: it fences out whoever held the step before.
UPDATE step SET state = 'running', token = :token, lease_until = :lease_until,
  worker = :worker, started = :now, finished = NULL WHERE id = :step;

-- name: claim_job
UPDATE job SET state = 'PROCESSING', started = coalesce(started, :now),
  version = version + 1 WHERE id = :job;

-- name: next_turn
-- Who begins comes directly behind whose turn was last, before the next turn of those who
-- had one. The first of its jobs has no smaller a number than any before it.
INSERT INTO lane(name, turn, tag)
SELECT :lane, (SELECT coalesce(max(id), 0) FROM job), turn + 1 FROM latest WHERE true
ON CONFLICT DO UPDATE SET turn = lane.turn + 1 RETURNING turn;

-- name: latest_tag
SELECT turn FROM latest;

-- name: lane
SELECT tag, served_round, served_tag FROM lane WHERE name = :lane;

-- name: advance
UPDATE latest SET turn = :tag WHERE turn < :tag;

-- name: serve_lane
UPDATE lane SET tag = :tag, served_round = :served_round, served_tag = :served_tag
WHERE name = :lane;

-- name: begin_lane
INSERT INTO lane(name, turn, tag, served_round, served_tag)
SELECT :lane, coalesce(max(id), 0), :tag, :served_round, :served_tag FROM job;

-- name: serve_front
-- What waits for a consumer that is held back has had no turn by that.
UPDATE front SET tag = iif(round = :served_round, :served_tag, :tag)
WHERE lane = :lane AND consumer IN (SELECT value FROM json_each(:wants));

-- name: forget_lanes
-- Who waits for nothing and is not ahead of the others begins where they are.
DELETE FROM lane WHERE tag <= (SELECT turn FROM latest)
  AND NOT EXISTS (SELECT 1 FROM front WHERE front.lane = lane.name);

-- name: forget_tallies
DELETE FROM tally WHERE n = 0;

-- name: forget_tenant_tallies
DELETE FROM tenant_tally WHERE n = 0;

-- name: renew_lease
UPDATE step SET lease_until = :lease_until
WHERE id = :step AND token = :token AND state = 'running';

-- name: lost_leases
SELECT id, token FROM step WHERE state = 'running' AND lease_until < :mono;

-- name: running_steps
SELECT id, token FROM step WHERE state = 'running';

-- name: homeless_steps
-- Steps that wait for a consumer which nobody has any more.
SELECT s.id, s.token + 1, s.consumer, j.kind
FROM step s JOIN job j ON j.id = s.job_id
WHERE s.state = 'ready' AND s.consumer NOT IN (SELECT name FROM consumer)
UNION ALL
SELECT s.id, s.token + 1, s.consumer, j.kind
FROM step s JOIN job j ON j.id = s.job_id
WHERE s.state IN('waiting','retrying') AND s.consumer NOT IN (SELECT name FROM consumer);

-- name: owned_step
-- A step and what its end may change, only for the holder of the token.
SELECT s.id, s.job_id, s.consumer, s.run, s.gate, s.required, s.detached, s.max_attempts,
  s.attempts, s.lost, s.interrupted, s.worker, s.started, j.pid, j.open, j.gates, j.facts,
  j.plan, j.media_type
FROM step s JOIN job j ON j.id = s.job_id
WHERE s.id = :step AND s.token = :token AND s.state = 'running';

-- name: step_ended
UPDATE step SET state = :state, attempts = :attempts, lost = :lost,
  interrupted = :interrupted, lease_until = NULL, run_at = :run_at, finished = :finished,
  error = :error WHERE id = :step;

-- name: insert_attempt
INSERT INTO attempt(step_id, run, verdict, code, detail, worker, started, finished)
VALUES(:step, :run, :verdict, :code, :detail, :worker, :started, :now);

-- name: count_waits
SELECT count(*) FROM attempt
WHERE step_id = :step AND run = :run AND verdict = 'try_later';

-- name: drop_derivatives
DELETE FROM derivative WHERE step_id = :step AND token = :token;

-- name: others_files
SELECT name FROM derivative WHERE job_id = :job AND consumer <> :consumer;

-- name: take_derivative
DELETE FROM derivative WHERE job_id = :job AND name = :name AND consumer = :consumer
RETURNING key;

-- name: insert_derivative
INSERT INTO derivative(job_id, step_id, token, consumer, name, key, media_type, size,
  length, coding, sha256, plain_sha256, facts, at)
VALUES(:job, :step, :token, :consumer, :name, :key, :media_type, :size, :length, :coding,
  :sha256, :plain_sha256, :facts, :now)
ON CONFLICT(job_id, name) DO NOTHING;

-- name: step_view
SELECT consumer, state, attempts + lost AS failures, required, error, started, finished,
  run_at FROM step WHERE id = :step;

-- name: cancel_steps
-- Closing a job takes every step out of its owner's hands.
UPDATE step SET state = 'cancelled', lease_until = NULL, token = token + 1,
  finished = :now
WHERE job_id = :job AND detached = 0
  AND state IN('waiting', 'ready', 'running', 'retrying')
RETURNING id, token;

-- name: reopen_steps
-- A retry: what did not succeed gets a fresh count of attempts.
UPDATE step SET state = 'ready', run = :run, run_at = :now, attempts = 0, lost = 0,
  interrupted = 0, error = NULL, started = NULL, finished = NULL
WHERE job_id = :job AND detached = 0 AND state IN('dead', 'cancelled', 'skipped')
RETURNING id, consumer, gate;

-- name: reopen_step
-- A retry of one dead step.
UPDATE step SET state = 'ready', run = :run, run_at = :now, attempts = 0, lost = 0,
  interrupted = 0, error = NULL, started = NULL, finished = NULL WHERE id = :step;

-- name: step_by_id
SELECT s.id, s.job_id, s.consumer, s.state, s.run, s.gate, s.required, s.detached,
  s.token, j.pid, j.state AS job_state, j.run AS job_run, j.open, j.gates, j.plan
FROM step s JOIN job j ON j.id = s.job_id WHERE s.id = :step;

-- name: cancel_step
UPDATE step SET state = 'cancelled', lease_until = NULL, token = token + 1,
  finished = :now WHERE id = :step;

-- name: dead_steps
-- One consumer's dead letters, or the files it has refused, oldest first.
SELECT s.id FROM step s JOIN job j ON j.id = s.job_id
WHERE s.consumer = :consumer AND s.state = 'dead' AND s.id > :after
  AND :refused = (j.kind = 'file' AND coalesce((SELECT a.verdict FROM attempt a
    WHERE a.step_id = s.id ORDER BY a.id DESC LIMIT 1), '') = 'bad_file')
ORDER BY s.id LIMIT :limit;

-- name: refusals
-- How many files each consumer has refused: of dead steps, whose last attempt said so.
SELECT s.consumer, count(*) AS n FROM step s JOIN job j ON j.id = s.job_id
WHERE s.state = 'dead' AND j.kind = 'file'
  AND (SELECT a.verdict FROM attempt a WHERE a.step_id = s.id
    ORDER BY a.id DESC LIMIT 1) = 'bad_file'
GROUP BY s.consumer;

-- name: dead_letters
SELECT s.id, s.consumer, s.attempts, s.lost, s.interrupted, s.error, s.finished,
  s.detached, j.pid, j.kind, j.file_name, j.tenant,
  (SELECT a.detail FROM attempt a WHERE a.step_id = s.id ORDER BY a.id DESC LIMIT 1) AS why
FROM step s JOIN job j ON j.id = s.job_id
WHERE s.consumer = :consumer AND s.state = 'dead' AND s.id < :before
  AND :refused = (j.kind = 'file' AND coalesce((SELECT a.verdict FROM attempt a
    WHERE a.step_id = s.id ORDER BY a.id DESC LIMIT 1), '') = 'bad_file')
ORDER BY s.id DESC LIMIT :limit;

-- name: running_letters
SELECT s.id, s.token, s.consumer, s.worker, s.started, s.detached, j.pid, j.kind, j.file_name, j.tenant
FROM step s JOIN job j ON j.id = s.job_id WHERE s.state = 'running'
ORDER BY s.started LIMIT :limit;

-- name: caused_by
-- Events of one type from a moment on, for a replay; those of deleted jobs are gone.
SELECT e.seq, j.id AS job, j.pid, j.media_type FROM event e JOIN job j ON j.id = e.job_id
WHERE e.seq > :after AND e.type = :type AND e.at >= :since ORDER BY e.seq LIMIT :limit;

-- name: has_replay
-- A replay that is not over yet is not begun again.
SELECT 1 FROM step WHERE job_id = :job AND consumer = :consumer
  AND state IN('waiting', 'ready', 'running', 'retrying');

-- name: missing_step
-- Which required step that did not succeed gives its job a reason: first those that died.
SELECT consumer, state, error FROM step
WHERE job_id = :job AND state IN('dead', 'cancelled') AND required = 1 AND detached = 0
ORDER BY state = 'cancelled', finished, id LIMIT 1;

-- name: tallies
SELECT consumer, state, n FROM tally WHERE n <> 0;

-- name: waiting_lanes
-- Reads all that waits, by the partial indexes, and nothing else.
SELECT lane, sum(ready) AS ready, sum(delayed) AS delayed, min(due) AS due FROM (
  SELECT lane, count(*) AS ready, 0 AS delayed, NULL AS due
  FROM step INDEXED BY step_ready WHERE state = 'ready' GROUP BY lane
  UNION ALL
  SELECT lane, state = 'retrying', state = 'waiting', iif(state = 'waiting', run_at, NULL)
  FROM step INDEXED BY step_due WHERE state IN('waiting','retrying')
) GROUP BY lane;

-- name: tenant_tallies
SELECT tenant, state, n FROM tenant_tally WHERE n <> 0;

-- name: log_offsets
-- How far each consumer has come: its first step that is not over, and the log's end.
SELECT c.name, coalesce((SELECT max(seq) FROM event), 0) AS head,
  (SELECT s.event_seq FROM step s WHERE s.consumer = c.name
    AND s.state IN('waiting','ready','running','retrying')
    ORDER BY s.event_seq LIMIT 1) AS first,
  (SELECT s.run_at FROM step s INDEXED BY step_open WHERE s.consumer = c.name
    AND s.state IN('waiting','ready','running','retrying') AND s.state = 'ready'
    ORDER BY s.event_seq LIMIT 1) AS ready_since
FROM (SELECT DISTINCT name FROM consumer) c;

-- name: throw_away
INSERT INTO trash(key, is_prefix) VALUES(:key, :is_prefix) ON CONFLICT DO NOTHING;

-- name: trash
-- What a row names is no trash, whoever has thrown it away.
SELECT key, is_prefix FROM trash WHERE CASE WHEN is_prefix
  THEN NOT EXISTS(SELECT 1 FROM job WHERE pid = substr(trash.key, length('processed/') + 1))
    AND NOT EXISTS(SELECT 1 FROM derivative d
      WHERE d.key >= trash.key || '/' AND d.key < trash.key || '0')
  ELSE NOT EXISTS(SELECT 1 FROM upload u WHERE u.key = trash.key AND u.state <> 'ended')
    AND NOT EXISTS(SELECT 1 FROM derivative d WHERE d.key = trash.key)
  END LIMIT :limit;

-- name: drop_trash
DELETE FROM trash WHERE key = :key;

-- name: forget_consumers
DELETE FROM consumer WHERE host = :node;

-- name: forget_elsewhere
DELETE FROM consumer WHERE name = :name AND host <> :node;

-- name: put_consumer
INSERT INTO consumer(name, host, definition, seen)
VALUES(:name, :node, :definition, :now);

-- name: registry
-- Of several nodes that have a consumer, this one comes first, then who came last.
SELECT name, host, definition, seen, host = :node AS is_here
FROM consumer ORDER BY name, is_here DESC, seen DESC, host;

-- name: latest_done
-- Reads the newest steps and no others.
SELECT s.consumer, s.finished - s.started AS ms, coalesce(j.size, 0) AS size,
  -- who counts the pages does not know them before
  CASE s.consumer WHEN 'identify' THEN NULL
    ELSE json_extract(j.facts, '$.identify.pages') END AS pages
FROM (SELECT * FROM step ORDER BY id DESC LIMIT :limit) s JOIN job j ON j.id = s.job_id
WHERE s.state = 'done' AND s.started IS NOT NULL;

-- name: pause
INSERT INTO pause(kind, name, at) VALUES(:kind, :name, :now) ON CONFLICT DO NOTHING;

-- name: resume
DELETE FROM pause WHERE kind = :kind AND name = :name;

-- name: pauses
SELECT kind, name FROM pause;

-- name: insert_audit
INSERT INTO audit(at, actor, action, target, detail)
VALUES(:now, :actor, :action, :target, :detail);

-- name: amend_audit
UPDATE audit SET detail = :detail WHERE id = :id;

-- name: audits
-- What people did, or what the server itself has noted of its alerts.
SELECT * FROM audit WHERE id < :before AND (action LIKE 'alert.%') = :of_alerts
ORDER BY id DESC LIMIT :limit;

-- name: forget_audits
-- The newest are kept: many alerts do not push out what people did.
DELETE FROM audit WHERE (action LIKE 'alert.%') = :of_alerts
  AND id <= (SELECT id FROM audit WHERE (action LIKE 'alert.%') = :of_alerts
    ORDER BY id DESC LIMIT 1 OFFSET :keep);
