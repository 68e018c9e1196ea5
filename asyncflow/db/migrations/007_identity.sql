-- What a client names once: ids that it chose, and keys of requests, which belong to an
-- owner of one tenant.

-- Chosen ids whose job was deleted: no other file gets them. Bytes of the first may still
-- be on their way out.
CREATE TABLE spent(pid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO spent SELECT substr(key, 5) FROM trash
  WHERE is_prefix = 0 AND key LIKE 'raw/________-____-4%';

CREATE TABLE creation_new(
  tenant TEXT NOT NULL,
  owner TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,                   -- of the request
  job_id INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE,
  PRIMARY KEY(tenant, owner, key)
) STRICT, WITHOUT ROWID;
INSERT INTO creation_new SELECT j.tenant, c.owner, c.key, c.fingerprint, c.job_id
  FROM creation c JOIN job j ON j.id = c.job_id;
DROP TABLE creation;
ALTER TABLE creation_new RENAME TO creation;
CREATE INDEX creation_job ON creation(job_id);
