-- What counts in a quota, without adding up every tenant, and no file twice.

-- The sum of what all tenants have.
CREATE TABLE used(id INTEGER PRIMARY KEY CHECK(id=1), bytes INTEGER NOT NULL) STRICT;
CREATE TRIGGER usage_added AFTER INSERT ON usage BEGIN
  UPDATE used SET bytes = bytes + new.bytes;
END;
CREATE TRIGGER usage_changed AFTER UPDATE OF bytes ON usage BEGIN
  UPDATE used SET bytes = bytes - old.bytes + new.bytes;
END;

-- 1: the bytes of this part count with a file that is joined from it, and not again.
ALTER TABLE upload ADD COLUMN taken INTEGER NOT NULL DEFAULT 0;
UPDATE upload SET taken = 1 WHERE concat <> '' AND parts IS NULL AND job_id IN (
  SELECT j.id FROM place p JOIN job j ON j.pid = p.part JOIN upload f ON f.job_id = p.final
  WHERE f.state <> 'ended' AND f.length IS NOT NULL);

DROP TRIGGER upload_measured;
DROP TRIGGER upload_ended;
DROP TRIGGER job_removed;
CREATE TRIGGER upload_counted AFTER UPDATE OF length, state, taken ON upload
  WHEN iif(new.state = 'ended' OR new.taken, 0, coalesce(new.length, 0))
    <> iif(old.state = 'ended' OR old.taken, 0, coalesce(old.length, 0))
BEGIN
  INSERT INTO usage SELECT tenant,
      iif(new.state = 'ended' OR new.taken, 0, coalesce(new.length, 0))
      - iif(old.state = 'ended' OR old.taken, 0, coalesce(old.length, 0))
    FROM job WHERE id = new.job_id
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER job_removed BEFORE DELETE ON job BEGIN
  -- its parts count themselves from now on
  UPDATE upload SET state = 'ended'
    WHERE job_id = old.id AND parts IS NOT NULL AND state <> 'ended';
  UPDATE usage SET bytes = bytes
      - coalesce((SELECT length FROM upload
          WHERE job_id = old.id AND state <> 'ended' AND taken = 0), 0)
      - coalesce((SELECT sum(size) FROM derivative WHERE job_id = old.id), 0)
    WHERE tenant = old.tenant;
END;

-- A file whose length is known counts in place of its parts, as long as it is there.
CREATE TRIGGER part_placed AFTER INSERT ON place
  WHEN (SELECT length FROM upload WHERE job_id = new.final) IS NOT NULL
BEGIN
  UPDATE upload SET taken = 1
    WHERE concat <> '' AND job_id = (SELECT id FROM job WHERE pid = new.part);
END;
CREATE TRIGGER final_measured AFTER UPDATE OF length ON upload
  WHEN new.parts IS NOT NULL AND old.length IS NULL AND new.length IS NOT NULL
BEGIN
  UPDATE upload SET taken = 1 WHERE concat <> '' AND job_id IN (
    SELECT j.id FROM place p JOIN job j ON j.pid = p.part WHERE p.final = new.job_id);
END;
CREATE TRIGGER final_ended AFTER UPDATE OF state ON upload
  WHEN new.parts IS NOT NULL AND new.state = 'ended' AND old.state <> 'ended'
BEGIN
  UPDATE upload SET taken = 0 WHERE taken = 1 AND job_id IN (
    SELECT j.id FROM place p JOIN job j ON j.pid = p.part
    WHERE p.final = new.job_id AND NOT EXISTS (
      SELECT 1 FROM place o JOIN upload f ON f.job_id = o.final
      WHERE o.part = p.part AND f.state <> 'ended' AND f.length IS NOT NULL));
END;

DELETE FROM usage;
INSERT INTO used SELECT 1, 0;
INSERT INTO usage SELECT tenant, sum(n) FROM (
    SELECT j.tenant, u.length AS n FROM upload u JOIN job j ON j.id = u.job_id
      WHERE u.state <> 'ended' AND u.taken = 0 AND u.length IS NOT NULL
    UNION ALL
    SELECT j.tenant, d.size FROM derivative d JOIN job j ON j.id = d.job_id
  ) GROUP BY tenant;

-- A chosen id whose job was deleted is kept for a time: `at` says since when.
ALTER TABLE spent ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
UPDATE spent SET at = CAST(strftime('%s') AS INTEGER) * 1000;
CREATE INDEX spent_at ON spent(at);
