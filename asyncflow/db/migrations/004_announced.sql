-- Bytes by tenant count from the moment they are announced: else a hundred uploads that
-- have only begun would each fit a quota that they exceed together.

DROP TRIGGER upload_completed;
DROP TRIGGER upload_given_up;
DROP TRIGGER job_removed;
CREATE TRIGGER upload_completed AFTER UPDATE OF state ON upload
  WHEN new.state = 'complete' AND old.state <> 'complete'
BEGIN
  UPDATE stored SET bytes = bytes + new.length;
END;
CREATE TRIGGER upload_given_up AFTER UPDATE OF state ON upload
  WHEN old.state = 'complete' AND new.state <> 'complete'
BEGIN
  UPDATE stored SET bytes = bytes - old.length;
END;
CREATE TRIGGER upload_announced AFTER INSERT ON upload WHEN new.length IS NOT NULL
BEGIN
  INSERT INTO usage SELECT tenant, new.length FROM job WHERE id = new.job_id
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER upload_measured AFTER UPDATE OF length ON upload
  WHEN new.length IS NOT old.length
BEGIN
  INSERT INTO usage SELECT tenant, new.length - coalesce(old.length, 0)
    FROM job WHERE id = new.job_id
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER upload_ended AFTER UPDATE OF state ON upload
  WHEN new.state = 'ended' AND old.state <> 'ended'
BEGIN
  UPDATE usage SET bytes = bytes - coalesce(old.length, 0)
    WHERE tenant = (SELECT tenant FROM job WHERE id = old.job_id);
END;
CREATE TRIGGER job_removed BEFORE DELETE ON job BEGIN
  UPDATE usage SET bytes = bytes
      - coalesce((SELECT length FROM upload
          WHERE job_id = old.id AND state <> 'ended'), 0)
      - coalesce((SELECT sum(size) FROM derivative WHERE job_id = old.id), 0)
    WHERE tenant = old.tenant;
END;

DELETE FROM usage;
INSERT INTO usage SELECT tenant, sum(n) FROM (
    SELECT j.tenant, u.length AS n FROM upload u JOIN job j ON j.id = u.job_id
      WHERE u.state <> 'ended' AND u.length IS NOT NULL
    UNION ALL
    SELECT j.tenant, d.size FROM derivative d JOIN job j ON j.id = d.job_id
  ) GROUP BY tenant;
