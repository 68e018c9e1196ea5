-- Two tables as wide and as indexed as those of an upload and its job.
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE job(id INTEGER PRIMARY KEY AUTOINCREMENT, pid TEXT NOT NULL UNIQUE,
  owner TEXT NOT NULL, state TEXT NOT NULL, file_name TEXT NOT NULL,
  declared_type TEXT NOT NULL, size INTEGER, created INTEGER NOT NULL) STRICT;
CREATE INDEX job_state ON job(state, id);
CREATE TABLE upload(job_id INTEGER PRIMARY KEY REFERENCES job(id),
  key TEXT NOT NULL UNIQUE, length INTEGER, metadata TEXT NOT NULL,
  state TEXT NOT NULL, expires INTEGER) STRICT;
CREATE INDEX upload_open ON upload(expires) WHERE state='receiving';
