-- Lanes take turns when they are served, not when their jobs begin: what waits, is held
-- back or comes back stands neither before nor behind others for what happened meanwhile.

DROP TRIGGER step_added_ready;
DROP TRIGGER step_moved_ready;
DROP TRIGGER step_moved_on;
DROP TRIGGER step_removed_ready;
DROP TABLE front;
DROP INDEX step_ready;

ALTER TABLE step ADD COLUMN lane TEXT NOT NULL DEFAULT '';  -- its job's; a replay's own
ALTER TABLE step ADD COLUMN round INTEGER NOT NULL DEFAULT 0; -- whose turn it belongs to
UPDATE step SET round = turn, lane = iif(detached, 'replay of ' || consumer || ' ' || tenant,
  (SELECT lane FROM job WHERE job.id = step.job_id));
-- Partial: the claim stays flat however many finished steps there are.
CREATE INDEX step_ready ON step(consumer, lane, priority, turn, id)
  WHERE state = 'ready';

-- `turn` numbers a lane's jobs, `tag` says when the lane is next: the smallest goes first.
-- What belongs to the turn that it had last still goes by the tag of that.
ALTER TABLE lane ADD COLUMN tag INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN served_round INTEGER NOT NULL DEFAULT -1;
ALTER TABLE lane ADD COLUMN served_tag INTEGER NOT NULL DEFAULT 0;

-- The first ready step of each lane and consumer, with the lane's tag.
CREATE TABLE front(
  lane TEXT NOT NULL,
  consumer TEXT NOT NULL,
  priority INTEGER NOT NULL,
  tag INTEGER NOT NULL,
  turn INTEGER NOT NULL,
  step INTEGER NOT NULL,
  round INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  PRIMARY KEY(lane, consumer)
) STRICT, WITHOUT ROWID;
-- In the order of claims. Whose it is comes last: a claim reads nothing but this.
CREATE INDEX front_order
  ON front(consumer, priority, tag, turn, step, round, lane, tenant);
INSERT INTO front SELECT lane, consumer, priority, 0, turn, id, round, tenant FROM (
    SELECT *, row_number() OVER (
      PARTITION BY lane, consumer ORDER BY priority, turn, id) AS place
    FROM step WHERE state = 'ready'
  ) WHERE place = 1;

-- A step that becomes ready stands in front, or behind who does.
CREATE TRIGGER step_added_ready AFTER INSERT ON step WHEN new.state = 'ready' BEGIN
  INSERT INTO front VALUES(new.lane, new.consumer, new.priority,
      coalesce((SELECT iif(new.round = served_round, served_tag, tag)
        FROM lane WHERE name = new.lane), (SELECT turn + 1 FROM latest)),
      new.turn, new.id, new.round, new.tenant)
    ON CONFLICT DO UPDATE
    SET priority = excluded.priority, tag = excluded.tag, turn = excluded.turn,
      step = excluded.step, round = excluded.round
    WHERE (excluded.priority, excluded.turn, excluded.step) < (priority, turn, step);
END;
CREATE TRIGGER step_moved_ready AFTER UPDATE OF state ON step
  WHEN new.state = 'ready' AND old.state <> 'ready'
BEGIN
  INSERT INTO front VALUES(new.lane, new.consumer, new.priority,
      coalesce((SELECT iif(new.round = served_round, served_tag, tag)
        FROM lane WHERE name = new.lane), (SELECT turn + 1 FROM latest)),
      new.turn, new.id, new.round, new.tenant)
    ON CONFLICT DO UPDATE
    SET priority = excluded.priority, tag = excluded.tag, turn = excluded.turn,
      step = excluded.step, round = excluded.round
    WHERE (excluded.priority, excluded.turn, excluded.step) < (priority, turn, step);
END;
-- Who goes leaves its place to the next one.
CREATE TRIGGER step_moved_on AFTER UPDATE OF state ON step
  WHEN old.state = 'ready' AND new.state <> 'ready'
BEGIN
  DELETE FROM front
    WHERE lane = old.lane AND consumer = old.consumer AND step = old.id;
  INSERT OR IGNORE INTO front SELECT lane, consumer, priority,
      coalesce((SELECT iif(step.round = served_round, served_tag, tag)
        FROM lane WHERE name = old.lane), (SELECT turn + 1 FROM latest)),
      turn, id, round, tenant
    FROM step WHERE consumer = old.consumer AND lane = old.lane AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1;
END;
CREATE TRIGGER step_removed_ready AFTER DELETE ON step WHEN old.state = 'ready' BEGIN
  DELETE FROM front
    WHERE lane = old.lane AND consumer = old.consumer AND step = old.id;
  INSERT OR IGNORE INTO front SELECT lane, consumer, priority,
      coalesce((SELECT iif(step.round = served_round, served_tag, tag)
        FROM lane WHERE name = old.lane), (SELECT turn + 1 FROM latest)),
      turn, id, round, tenant
    FROM step WHERE consumer = old.consumer AND lane = old.lane AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1;
END;
