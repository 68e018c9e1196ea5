-- name: insert_step
INSERT INTO step(job_id, event_seq, consumer, run, state, gate, required, priority,
  max_attempts, options, run_at)
VALUES(:job, :seq, :consumer, :run, 'ready', :gate, :required, :priority,
  :max_attempts, :options, :now);

-- name: step_of_consumer
SELECT id, state, token FROM step WHERE job_id = :job AND consumer = :consumer;

-- name: cause_again
-- A later run's event causes a step that an earlier run has had.
UPDATE step SET state = 'ready', event_seq = :seq, run = :run, gate = :gate,
  required = :required, priority = :priority, max_attempts = :max_attempts,
  options = :options, run_at = :now, attempts = 0, lost = 0, interrupted = 0,
  error = NULL, started = NULL, finished = NULL
WHERE id = :step;

-- name: insert_event
INSERT INTO event(job_id, run, type, data, at) VALUES(:job, :run, :type, :data, :now)
RETURNING seq;

-- name: due_steps
-- Steps whose back-off is over become ready.
UPDATE step SET state = 'ready' WHERE state = 'retrying' AND run_at <= :now;

-- name: ready_steps
-- The most urgent ready steps of one consumer; the partial index keeps it flat.
SELECT id, priority FROM step WHERE consumer = :consumer AND state = 'ready'
ORDER BY priority, id LIMIT :limit;

-- name: claim_step
-- The token grows with each claim: it fences out whoever held the step before.
UPDATE step SET state = 'running', token = token + 1, lease_until = :lease_until,
  worker = :worker, started = :now, finished = NULL
WHERE id = :step RETURNING job_id, token, consumer, gate, options;

-- name: claim_job
UPDATE job SET state = 'PROCESSING', started = coalesce(started, :now),
  version = version + 1 WHERE id = :job
RETURNING pid, version, state, size, file_name, declared_type, media_type, metadata, facts;

-- name: upload_key
SELECT key FROM upload WHERE job_id = :job;

-- name: renew_lease
UPDATE step SET lease_until = :lease_until
WHERE id = :step AND token = :token AND state = 'running';

-- name: lost_leases
SELECT id, token FROM step WHERE state = 'running' AND lease_until < :mono;

-- name: running_steps
SELECT id, token FROM step WHERE state = 'running';

-- name: homeless_steps
-- Steps that wait for a consumer which nobody has any more.
SELECT id, consumer FROM step
WHERE state = 'ready' AND consumer NOT IN (SELECT name FROM consumer)
UNION ALL
SELECT id, consumer FROM step
WHERE state = 'retrying' AND consumer NOT IN (SELECT name FROM consumer);

-- name: owned_step
-- A step and what its end may change, only for the holder of the token.
SELECT s.id, s.job_id, s.consumer, s.run, s.gate, s.required, s.max_attempts, s.attempts,
  s.lost, s.interrupted, s.worker, s.started, j.pid, j.open, j.gates, j.facts, j.plan,
  j.media_type
FROM step s JOIN job j ON j.id = s.job_id
WHERE s.id = :step AND s.token = :token AND s.state = 'running';

-- name: step_ended
UPDATE step SET state = :state, attempts = :attempts, lost = :lost,
  interrupted = :interrupted, lease_until = NULL, run_at = :run_at, finished = :finished,
  error = :error WHERE id = :step;

-- name: insert_attempt
INSERT INTO attempt(step_id, run, verdict, code, detail, worker, started, finished)
VALUES(:step, :run, :verdict, :code, :detail, :worker, :started, :now);

-- name: drop_derivatives
DELETE FROM derivative WHERE step_id = :step AND token = :token;

-- name: insert_derivative
INSERT INTO derivative(job_id, step_id, token, consumer, name, key, media_type, size,
  facts, at)
VALUES(:job, :step, :token, :consumer, :name, :key, :media_type, :size, :facts, :now)
ON CONFLICT(job_id, name) DO UPDATE SET step_id = excluded.step_id,
  token = excluded.token, consumer = excluded.consumer, key = excluded.key,
  media_type = excluded.media_type, size = excluded.size, facts = excluded.facts,
  at = excluded.at
WHERE derivative.step_id = excluded.step_id;

-- name: step_view
SELECT consumer, state, attempts + lost AS failures, required, error, started, finished,
  run_at FROM step WHERE id = :step;

-- name: cancel_steps
-- Closing a job takes every step out of its owner's hands.
UPDATE step SET state = 'cancelled', lease_until = NULL, token = token + 1,
  finished = :now
WHERE job_id = :job AND state IN('ready', 'running', 'retrying')
RETURNING id, token;

-- name: reopen_steps
-- A retry: what did not succeed gets a fresh count of attempts.
UPDATE step SET state = 'ready', run = :run, run_at = :now, attempts = 0, lost = 0,
  interrupted = 0, error = NULL, started = NULL, finished = NULL
WHERE job_id = :job AND state IN('dead', 'cancelled', 'skipped')
RETURNING id, consumer, gate;

-- name: dead_required
SELECT count(*) AS n FROM step
WHERE job_id = :job AND run = :run AND state = 'dead' AND required = 1;

-- name: blamed_step
-- Which dead required step gives a failed job its reason.
SELECT consumer, error FROM step
WHERE job_id = :job AND state = 'dead' AND required = 1 ORDER BY finished, id LIMIT 1;

-- name: tallies
SELECT consumer, state, n FROM tally;

-- name: waiting_since
-- Reads what waits and nothing else: the index holds ready steps alone.
SELECT consumer, min(run_at) AS since FROM step WHERE state = 'ready' GROUP BY consumer;

-- name: throw_away
INSERT INTO trash(key, is_prefix) VALUES(:key, :is_prefix) ON CONFLICT DO NOTHING;

-- name: trash
SELECT key, is_prefix FROM trash LIMIT :limit;

-- name: drop_trash
DELETE FROM trash WHERE key = :key;

-- name: forget_consumers
DELETE FROM consumer;

-- name: put_consumer
INSERT INTO consumer(name, definition, seen) VALUES(:name, :definition, :now)
ON CONFLICT DO UPDATE SET definition = excluded.definition, seen = excluded.seen;

-- name: consumers
SELECT definition FROM consumer ORDER BY name;
