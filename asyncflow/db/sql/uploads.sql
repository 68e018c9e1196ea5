-- name: insert_job
-- A job is born with its upload, unless its client has too many open already.
INSERT INTO job(pid, is_part, owner, tenant, state, file_name, declared_type, size,
  metadata, created, lane, priority, pipeline, request)
SELECT :id, :is_part, :owner, :tenant, 'UPLOADING', :file_name, :declared_type, :length,
  :metadata, :now, :lane, :priority, :pipeline, :request
WHERE :client = '' OR :client_limit >
  (SELECT count(*) FROM upload WHERE state = 'receiving' AND client = :client);

-- name: insert_upload
INSERT INTO upload(job_id, key, length, metadata, state, expires, client, dialect, parts,
  concat, digest, has_end)
VALUES(:job, :key, :length, :raw_metadata, 'receiving', :expires, :client, :dialect,
  :parts, :concat, :digest, :has_end);

-- name: insert_creation
INSERT INTO creation(tenant, owner, key, fingerprint, job_id)
VALUES(:tenant, :owner, :key, :fingerprint, :job)
ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, job_id = excluded.job_id;

-- name: find_creation
SELECT j.pid, u.state, c.fingerprint FROM creation c JOIN job j ON j.id = c.job_id
LEFT JOIN upload u ON u.job_id = c.job_id
WHERE c.tenant = :tenant AND c.owner = :owner AND c.key = :key;

-- name: spend_id
INSERT INTO spent(pid, at) VALUES(:pid, :now) ON CONFLICT DO NOTHING;

-- name: is_spent
SELECT 1 FROM spent WHERE pid = :pid;

-- name: find_upload
SELECT j.id, j.pid, j.owner, j.tenant, j.file_name, j.declared_type,
  j.state AS job_state, j.version,
  j.is_part, j.lane, u.*
FROM job j JOIN upload u ON u.job_id = j.id WHERE j.pid = :pid;

-- name: complete_upload
-- Once: a second completion finds the upload no longer receiving.
UPDATE upload SET state = 'complete', length = :size, expires = NULL, checked_from = NULL
WHERE job_id = :job AND state = 'receiving';

-- name: complete_part
-- A part still expires, unless all that it is joined from with others is there.
UPDATE upload SET state = 'complete', length = :size, checked_from = NULL
WHERE job_id = :job AND state = 'receiving';

-- name: job_uploaded
UPDATE job SET state = 'PENDING', size = :size, uploaded = :now, plan = :plan,
  turn = :turn, open = :open, gates = :gates, version = version + 1 WHERE id = :job;

-- name: set_length
-- Once: a length that is known does not change.
UPDATE upload SET length = :length, has_end = MAX(has_end, :is_end)
WHERE state = 'receiving' AND (length IS NULL OR length = :length)
  AND job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: set_size
UPDATE job SET size = :length WHERE pid = :pid;

-- name: set_checked_from
UPDATE upload SET checked_from = :at WHERE job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: set_joined
UPDATE upload SET joined = :at
WHERE state = 'receiving' AND job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: set_digest
UPDATE upload SET digest = :digest
WHERE state = 'receiving' AND job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: note_digest
-- Of a complete file: what nobody had said of it, and is known now.
UPDATE upload SET digest = :digest WHERE state = 'complete' AND digest = ''
  AND job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: set_said
UPDATE upload SET metadata = :raw_metadata, digest = :digest WHERE job_id = :job;

-- name: set_name
UPDATE job SET file_name = :name, declared_type = :kind WHERE id = :job;

-- name: insert_place
INSERT INTO place(final, n, part, size) VALUES(:final, :n, :part, (
  SELECT u.length FROM job j JOIN upload u ON u.job_id = j.id WHERE j.pid = :part));

-- name: hold_nameless
-- A part that no client can name ends with what it has a place in.
UPDATE upload SET expires = NULL
WHERE concat = '' AND job_id = (SELECT id FROM job WHERE pid = :part);

-- name: find_place
SELECT part FROM place WHERE final = :final AND n = :n;

-- name: places
-- The parts of a joined upload that have a place, in their order.
SELECT p.n, p.part, u.state, u.length, u.key, u.taken FROM place p
JOIN job f ON f.id = p.final AND f.pid = :pid
LEFT JOIN job j ON j.pid = p.part
LEFT JOIN upload u ON u.job_id = j.id AND u.state <> 'ended'
ORDER BY p.n;

-- name: span
-- Where the bytes of a place begin and end, and of how many places that is known.
SELECT sum(size) - max(iif(n = :n, size, 0)) AS begins, sum(size) AS ends,
  count(size) AS known
FROM place WHERE final = (SELECT id FROM job WHERE pid = :pid) AND n <= :n;

-- name: is_held
-- Whether something of which all parts are complete is put together of this one.
SELECT EXISTS(SELECT 1 FROM place p JOIN upload u ON u.job_id = p.final
  WHERE p.part = :pid AND u.state = 'receiving' AND u.expires IS NULL) AS held;

-- name: finals_of
SELECT DISTINCT f.pid FROM place p JOIN job f ON f.id = p.final
JOIN upload u ON u.job_id = f.id WHERE p.part = :pid AND u.state = 'receiving';

-- name: extend_upload
UPDATE upload SET expires = :expires
WHERE expires IS NOT NULL AND job_id = (SELECT id FROM job WHERE pid = :pid);

-- name: extend_finals
-- What waits for a part.
UPDATE upload SET expires = :expires
WHERE state = 'receiving' AND expires < :expires
  AND job_id IN (SELECT final FROM place WHERE part = :pid);

-- name: extend_parts
-- All parts of what waits for a part, or of the upload itself.
UPDATE upload SET expires = :expires
WHERE expires < :expires AND job_id IN (
  SELECT j.id FROM upload f JOIN place p ON p.final = f.job_id
  JOIN job j ON j.pid = p.part
  WHERE f.state = 'receiving' AND f.job_id IN (
    SELECT final FROM place WHERE part = :pid
    UNION SELECT id FROM job WHERE pid = :pid));

-- name: waiting_for
SELECT DISTINCT final FROM place WHERE part = :pid;

-- name: hold_whole
-- Once all parts of an upload are there, it is the server's to join them: no time limit.
UPDATE upload SET expires = NULL
WHERE job_id = :final AND state = 'receiving' AND expires IS NOT NULL
  AND parts = (SELECT count(*) FROM place WHERE final = :final)
  AND parts = (SELECT count(*) FROM place p JOIN job j ON j.pid = p.part
    JOIN upload u ON u.job_id = j.id AND u.state = 'complete' WHERE p.final = :final);

-- name: hold_parts
UPDATE upload SET expires = NULL WHERE job_id IN (
  SELECT j.id FROM place p JOIN job j ON j.pid = p.part WHERE p.final = :final);

-- name: give_up_parts
-- Parts that no client can name, of an upload that is over: they count no more.
UPDATE upload SET state = 'ended', expires = 0
WHERE state <> 'ended' AND concat = '' AND job_id IN (
  SELECT j.id FROM place p JOIN job j ON j.pid = p.part WHERE p.final = :final);

-- name: release_parts
-- The other parts: they live as long as what still waits for them, else till :expires.
UPDATE upload SET expires = coalesce((
    SELECT max(w.expires) FROM job j JOIN place o ON o.part = j.pid
    JOIN upload w ON w.job_id = o.final AND w.state = 'receiving'
    WHERE j.id = upload.job_id), :expires)
WHERE concat <> '' AND (expires IS NULL OR :served) AND job_id IN (
  SELECT j.id FROM place p JOIN job j ON j.pid = p.part
  WHERE p.final = :final AND NOT EXISTS (
    SELECT 1 FROM place o JOIN upload w ON w.job_id = o.final
    WHERE o.part = p.part AND w.state = 'receiving' AND w.expires IS NULL));

-- name: give_up_strays
-- Parts that no client can name and that have no place, though they are complete.
UPDATE upload SET state = 'ended', expires = 0
WHERE expires IS NOT NULL AND state = 'complete' AND concat = '' AND job_id <= :last
  AND job_id IN (SELECT j.id FROM job j WHERE j.id = upload.job_id AND j.is_part = 1
    AND NOT EXISTS (SELECT 1 FROM place WHERE part = j.pid));

-- name: given_up_parts
SELECT j.id, j.pid, u.key FROM upload u JOIN job j ON j.id = u.job_id
WHERE u.expires = 0 AND u.state = 'ended' AND j.is_part = 1 LIMIT :limit;

-- name: end_upload
UPDATE upload SET state = 'ended', expires = NULL
WHERE job_id = :job AND state = 'receiving';

-- name: expired_uploads
SELECT j.pid FROM upload u JOIN job j ON j.id = u.job_id
WHERE u.expires <= :now AND u.state <> 'ended' ORDER BY u.expires LIMIT :limit;

-- name: open_uploads
SELECT count(*) AS n FROM upload WHERE state = 'receiving';

-- name: open_of_client
SELECT count(*) AS n FROM upload WHERE state = 'receiving' AND client = :client;

-- name: stored_bytes
SELECT bytes AS n FROM stored WHERE id = 1;

-- name: latest_upload
SELECT coalesce(max(job_id), 0) AS n FROM upload;

-- name: unfinished_uploads
-- For recovery: a page after the upload whose row id is :after.
SELECT j.id, j.pid, j.owner, j.tenant, j.file_name, j.declared_type,
  j.state AS job_state, j.version,
  j.is_part, j.lane, u.*
FROM upload u JOIN job j ON j.id = u.job_id
WHERE u.state = 'receiving' AND u.job_id > :after ORDER BY u.job_id LIMIT :limit;
