-- Consumers are registered by host: what one of them has no longer, another may have.

CREATE TABLE consumer_new(
  name TEXT NOT NULL,
  host TEXT NOT NULL,                          -- who has the code
  definition TEXT NOT NULL,                    -- JSON of jobs.Subscription
  seen INTEGER NOT NULL,                       -- when it was registered last
  PRIMARY KEY(name, host)
) STRICT, WITHOUT ROWID;
INSERT INTO consumer_new SELECT name, '', definition, seen FROM consumer;
DROP TABLE consumer;
ALTER TABLE consumer_new RENAME TO consumer;

-- What the host of this database is called, and was called when it was here last: a
-- container has another name each time.
CREATE TABLE here(host TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
INSERT INTO here VALUES('');
