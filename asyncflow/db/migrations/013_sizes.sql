-- How many bytes each place of a joined upload holds: its parts are given up when it is
-- complete, and a repeated chunk is still compared with what came first. NULL: it was
-- not known when the part got its place, or the part had gone already.

ALTER TABLE place ADD COLUMN size INTEGER;
UPDATE place SET size = (SELECT u.length FROM job j JOIN upload u ON u.job_id = j.id
  WHERE j.pid = place.part);
