-- Originals that are removed after their time, jobs by their end, bytes by tenant.

ALTER TABLE job ADD COLUMN original INTEGER NOT NULL DEFAULT 1; -- 0: bytes removed
CREATE INDEX job_finished ON job(finished) WHERE finished IS NOT NULL AND is_part=0;
CREATE INDEX job_original ON job(finished)
  WHERE finished IS NOT NULL AND original=1 AND kind='file' AND is_part=0;

-- Bytes of originals and derivatives by tenant. A job takes its bytes with it before its
-- rows go: when they do, nobody can tell any more whose they were.
CREATE TABLE usage(tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO usage SELECT tenant, sum(n) FROM (
    SELECT j.tenant, u.length AS n FROM upload u JOIN job j ON j.id = u.job_id
      WHERE u.state = 'complete'
    UNION ALL
    SELECT j.tenant, d.size FROM derivative d JOIN job j ON j.id = d.job_id
  ) GROUP BY tenant;

DROP TRIGGER upload_completed;
DROP TRIGGER derivative_added;
DROP TRIGGER derivative_replaced;
DROP TRIGGER derivative_removed;
CREATE TRIGGER upload_completed AFTER UPDATE OF state ON upload
  WHEN new.state = 'complete' AND old.state <> 'complete'
BEGIN
  UPDATE stored SET bytes = bytes + new.length;
  INSERT INTO usage SELECT tenant, new.length FROM job WHERE id = new.job_id
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER upload_given_up AFTER UPDATE OF state ON upload
  WHEN old.state = 'complete' AND new.state <> 'complete'
BEGIN
  UPDATE stored SET bytes = bytes - old.length;
  UPDATE usage SET bytes = bytes - old.length
    WHERE tenant = (SELECT tenant FROM job WHERE id = old.job_id);
END;
CREATE TRIGGER derivative_added AFTER INSERT ON derivative BEGIN
  UPDATE stored SET bytes = bytes + new.size;
  INSERT INTO usage SELECT tenant, new.size FROM job WHERE id = new.job_id
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER derivative_replaced AFTER UPDATE OF size ON derivative BEGIN
  UPDATE stored SET bytes = bytes - old.size + new.size;
  UPDATE usage SET bytes = bytes - old.size + new.size
    WHERE tenant = (SELECT tenant FROM job WHERE id = new.job_id);
END;
CREATE TRIGGER derivative_removed AFTER DELETE ON derivative BEGIN
  UPDATE stored SET bytes = bytes - old.size;
  UPDATE usage SET bytes = bytes - old.size
    WHERE tenant = (SELECT tenant FROM job WHERE id = old.job_id);
END;
CREATE TRIGGER job_removed BEFORE DELETE ON job BEGIN
  UPDATE usage SET bytes = bytes
      - coalesce((SELECT length FROM upload
          WHERE job_id = old.id AND state = 'complete'), 0)
      - coalesce((SELECT sum(size) FROM derivative WHERE job_id = old.id), 0)
    WHERE tenant = old.tenant;
END;
