-- The request that began the job, by its name in the log; '' if none did.
ALTER TABLE job ADD COLUMN request TEXT NOT NULL DEFAULT '';
