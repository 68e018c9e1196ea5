-- A database as it is after long use: JOBS finished jobs of two steps and five events.

-- The counters are set once at the end instead of a million times.
DROP TRIGGER step_added;

INSERT INTO job(pid, owner, tenant, state, file_name, declared_type, media_type, size,
  created, uploaded, accepted, started, finished)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < JOBS)
SELECT 'past-' || i, 'local', '', 'COMPLETED', 'photo.jpg', 'image/jpeg', 'image/jpeg',
  1000000, i, i, i, i, i FROM n;

INSERT INTO upload(job_id, key, length, state)
SELECT id, 'raw/' || pid, size, 'complete' FROM job;

INSERT INTO event(job_id, run, type, data, at)
SELECT job.id, 1, kind.column1, '{}', job.created FROM job
CROSS JOIN (VALUES('file.uploaded'), ('identify.done'), ('file.accepted'),
  ('image.done'), ('job.completed')) AS kind;

INSERT INTO step(job_id, event_seq, consumer, tenant, run, state, gate, required,
  priority, turn, max_attempts, options, run_at, token, worker, started, finished)
SELECT job_id, seq, iif(type = 'file.uploaded', 'identify', 'image'), '', 1, 'done',
  type = 'file.uploaded', 1, 0, job_id, 3, '{}', at, 1,
  'past:1', at, at
FROM event WHERE type IN('file.uploaded', 'file.accepted');

INSERT INTO tally SELECT consumer, state, count(*) FROM step GROUP BY consumer, state;
INSERT INTO tenant_tally SELECT tenant, state, count(*) FROM step GROUP BY tenant, state;

CREATE TRIGGER step_added AFTER INSERT ON step BEGIN
  INSERT INTO tally VALUES(new.consumer, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
  INSERT INTO tenant_tally VALUES(new.tenant, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
