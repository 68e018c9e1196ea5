-- name: insert_job
-- A job is born with its upload.
INSERT INTO job(pid, owner, tenant, state, file_name, declared_type, size, metadata, created)
VALUES(:id, :owner, :tenant, 'UPLOADING', :file_name, :declared_type, :length, :metadata, :now)
RETURNING id;

-- name: insert_upload
INSERT INTO upload(job_id, key, length, metadata, state, expires)
VALUES(:job, :key, :length, :raw_metadata, 'receiving', :expires);

-- name: find_upload
SELECT j.id, j.pid, j.owner, j.file_name, j.declared_type, j.state AS job_state, j.version,
  u.key, u.length, u.metadata, u.state, u.expires
FROM job j JOIN upload u ON u.job_id = j.id WHERE j.pid = :pid;

-- name: complete_upload
-- Once: a second completion finds the upload no longer receiving.
UPDATE upload SET state = 'complete', length = :size, expires = NULL
WHERE job_id = :job AND state = 'receiving';

-- name: job_uploaded
UPDATE job SET state = 'PENDING', size = :size, uploaded = :now, plan = :plan,
  open = 0, gates = 0, version = version + 1 WHERE id = :job;

-- name: extend_upload
UPDATE upload SET expires = :expires
WHERE state = 'receiving' AND job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: end_upload
UPDATE upload SET state = 'ended', expires = NULL
WHERE job_id = :job AND state = 'receiving';

-- name: expired_uploads
SELECT j.pid FROM upload u JOIN job j ON j.id = u.job_id
WHERE u.state = 'receiving' AND u.expires <= :now ORDER BY u.expires LIMIT :limit;

-- name: open_uploads
SELECT count(*) AS n FROM upload WHERE state = 'receiving';

-- name: stored_bytes
SELECT bytes AS n FROM stored WHERE id = 1;

-- name: unfinished_uploads
-- For recovery: a page after the upload whose row id is :after.
SELECT j.id, j.pid, j.owner, j.file_name, j.declared_type, j.state AS job_state, j.version,
  u.key, u.length, u.metadata, u.state, u.expires
FROM upload u JOIN job j ON j.id = u.job_id
WHERE u.state = 'receiving' AND u.job_id > :after ORDER BY u.job_id LIMIT :limit;
