-- name: named_blobs
-- Every blob that a row promises: whole uploads, then derivatives. Parts are on their
-- way to what they become.
SELECT j.pid AS job, 'original' AS name, u.key, u.length AS size,
  json_extract(j.facts, '$.identify.sha256') AS sha256
FROM upload u JOIN job j ON j.id = u.job_id WHERE u.state = 'complete' AND j.is_part = 0
UNION ALL
SELECT j.pid, d.name, d.key, d.size, nullif(d.sha256, '')
FROM derivative d JOIN job j ON j.id = d.job_id;

-- name: unjoined
-- Files that somebody may have been told are safe, and that are not put together yet.
SELECT j.pid AS job, j.file_name AS name FROM upload u JOIN job j ON j.id = u.job_id
WHERE u.state = 'receiving' AND u.parts IS NOT NULL AND u.expires IS NULL
ORDER BY j.id;

-- name: hold_snapshot
-- The first read opens the snapshot that a transaction sees to its end.
SELECT count(*) FROM sqlite_schema;

-- name: forget_unfinished
-- The bytes of an unfinished upload, and of parts, move on while a backup runs: nothing
-- fits them.
DELETE FROM job WHERE is_part = 1
  OR id IN (SELECT job_id FROM upload WHERE state = 'receiving');

-- name: forget_trash
-- Its bytes are not copied.
DELETE FROM trash;
