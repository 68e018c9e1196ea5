-- name: job_by_pid
SELECT id, pid, kind, state, run, open, gates, version, plan, original FROM job
WHERE pid = :pid AND is_part = 0;

-- name: job_by_id
SELECT id, pid, kind, state, tenant, run, open, gates, version, plan, original FROM job
WHERE id = :job;

-- name: add_open
UPDATE job SET open = open + :open, gates = gates + :gates WHERE id = :job;

-- name: touch_job
UPDATE job SET version = version + 1 WHERE id = :job RETURNING version, kind, state;

-- name: job_version
SELECT version, kind, state FROM job WHERE id = :job;

-- name: job_facts
UPDATE job SET facts = :facts, media_type = coalesce(:media_type, media_type),
  plan = coalesce(:plan, plan) WHERE id = :job;

-- name: job_accepted
-- Once in a job's life, whatever is retried later.
UPDATE job SET accepted = :now WHERE id = :job AND accepted IS NULL;

-- name: close_job
UPDATE job SET state = :state, open = 0, gates = 0, finished = :now, error = :error,
  version = version + 1 WHERE id = :job;

-- name: reopen_job
UPDATE job SET state = 'PROCESSING', run = run + 1, finished = NULL, error = NULL,
  open = 0, gates = 0, version = version + 1 WHERE id = :job RETURNING run, version;

-- name: delete_job
DELETE FROM job WHERE id = :job;

-- name: running_of_job
SELECT id, token FROM step WHERE job_id = :job AND state = 'running';

-- name: job_view
-- Everything GET /status shows, in one statement: a reader makes one trip.
SELECT j.*, u.state AS upload_state, u.length AS upload_length,
  (SELECT json_group_array(json_array(s.consumer, s.state, s.attempts + s.lost,
      s.required, s.error, s.started, s.finished, s.run_at))
    FROM (SELECT * FROM step WHERE job_id = j.id AND detached = 0
      ORDER BY event_seq, turn, id) s) AS steps,
  (SELECT json_group_array(json_array(d.name, d.consumer, d.key, d.media_type, d.length,
      d.plain_sha256, json(d.facts)))
    FROM (SELECT * FROM derivative WHERE job_id = j.id ORDER BY id) d) AS files
FROM job j LEFT JOIN upload u ON u.job_id = j.id WHERE j.pid = :pid AND j.is_part = 0;

-- name: jobs_page
SELECT * FROM job WHERE is_part = 0 AND id < :before ORDER BY id DESC LIMIT :limit;

-- name: jobs_page_of_state
SELECT * FROM job WHERE is_part = 0 AND state = :state AND id < :before
ORDER BY id DESC LIMIT :limit;

-- name: jobs_page_found
-- A search reads jobs until the page is full: only people search.
SELECT * FROM job WHERE is_part = 0 AND id < :before AND (:state IS NULL OR state = :state)
  AND (instr(lower(file_name), lower(:search)) OR instr(pid, lower(:search)))
ORDER BY id DESC LIMIT :limit;

-- name: submit_job
-- A task or an application event: nothing has to arrive first.
INSERT INTO job(pid, kind, owner, tenant, state, open, file_name, declared_type, metadata,
  plan, payload, created, accepted, lane, turn, priority, request)
VALUES(:id, :kind, :owner, :tenant, 'PENDING', :open, :name, '', '{}', :plan, :payload,
  :now, :now, :lane, :turn, :priority, :request);

-- name: job_exists
SELECT 1 FROM job WHERE pid = :pid AND is_part = 0;

-- name: attempts
SELECT s.consumer, a.run, a.verdict, a.code, a.detail, a.worker, a.started, a.finished
FROM attempt a JOIN step s ON s.id = a.step_id JOIN job j ON j.id = s.job_id
WHERE j.pid = :pid ORDER BY a.id;

-- name: events
SELECT e.seq, e.type, e.run, e.at FROM event e JOIN job j ON j.id = e.job_id
WHERE j.pid = :pid ORDER BY e.seq;

-- name: job_owner
SELECT owner, tenant FROM job WHERE pid = :pid;

-- name: original_file
SELECT j.pid, j.state, j.file_name, coalesce(j.media_type, 'application/octet-stream')
  AS media_type, j.size, j.uploaded AS at, j.accepted, u.key, u.state AS upload_state,
  j.original, j.size AS length, '' AS coding,
  coalesce(json_extract(j.facts, '$.identify.sha256'), '') AS sha256,
  coalesce(json_extract(j.facts, '$.identify.sha256'), '') AS plain_sha256
FROM job j JOIN upload u ON u.job_id = j.id WHERE j.pid = :pid AND j.is_part = 0;

-- name: derived_file
SELECT j.pid, j.state, j.file_name, d.name, d.key, d.media_type, d.size, d.at,
  j.accepted, d.length, d.coding, d.sha256, d.plain_sha256
FROM derivative d JOIN job j ON j.id = d.job_id WHERE j.pid = :pid AND d.name = :name;

-- name: pulse
UPDATE pulse SET at = :now WHERE id = 1;

-- name: finished_jobs
-- Jobs whose run ended before a moment, oldest first.
SELECT pid FROM job WHERE finished < :before AND is_part = 0 ORDER BY finished LIMIT :limit;

-- name: old_originals
SELECT id, pid FROM job WHERE finished < :before AND original = 1 AND kind = 'file'
  AND is_part = 0 ORDER BY finished LIMIT :limit;

-- name: drop_original
UPDATE job SET original = 0 WHERE id = :job;

-- name: give_up_upload
UPDATE upload SET state = 'ended' WHERE job_id = :job AND state = 'complete';

-- name: is_named
-- Whether a row names a blob, or a running step is about to.
SELECT 1 FROM upload WHERE key = :key AND state <> 'ended'
UNION ALL SELECT 1 FROM derivative WHERE key = :key
UNION ALL SELECT 1 FROM step WHERE id = :step AND token = :token AND state = 'running';

-- name: lately
-- The newest events alone are looked at, by the primary key.
SELECT at / 60000 AS minute, type, count(*) AS n FROM event
WHERE seq > (SELECT max(seq) FROM event) - :most AND at >= :since
  AND type IN('file.uploaded','job.completed','job.failed','job.rejected','job.cancelled')
GROUP BY 1, 2;

-- name: usage
SELECT tenant, bytes FROM usage;

-- name: usage_of
-- The sum of all, which has no tenant, and what some tenants have: one look at both.
SELECT NULL AS tenant, bytes FROM used
UNION ALL SELECT tenant, bytes FROM usage
  WHERE tenant IN (SELECT value FROM json_each(:tenants));

-- name: forget_spent
-- Not while bytes of the first file are on their way out.
DELETE FROM spent WHERE pid IN (SELECT pid FROM spent WHERE at < :before
  AND NOT EXISTS (SELECT 1 FROM trash WHERE key = 'raw/' || pid) ORDER BY at LIMIT :limit);
