-- What the claim and the counters look at grows neither with tenants nor with history.

DROP TRIGGER step_added;
DROP TRIGGER step_moved;
DROP TRIGGER step_removed;
DROP TABLE tally;

-- The first ready step of each consumer and tenant, in the order of claims. Whose it is
-- comes last: one walk finds who is next, and passes a tenant that may not by one row.
CREATE TABLE front(
  consumer TEXT NOT NULL,
  priority INTEGER NOT NULL,
  turn INTEGER NOT NULL,
  step INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  PRIMARY KEY(consumer, priority, turn, step)
) STRICT, WITHOUT ROWID;
INSERT INTO front SELECT consumer, priority, turn, id, tenant FROM (
    SELECT *, row_number() OVER (
      PARTITION BY consumer, tenant ORDER BY priority, turn, id) AS place
    FROM step WHERE state = 'ready'
  ) WHERE place = 1;

-- Steps per consumer and state, and per tenant and state, kept by triggers: no GROUP BY
-- over history, and none over tenants.
CREATE TABLE tally(
  consumer TEXT NOT NULL,
  state TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY(consumer, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE tenant_tally(
  tenant TEXT NOT NULL,
  state TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY(tenant, state)
) STRICT, WITHOUT ROWID;
INSERT INTO tally SELECT consumer, state, count(*) FROM step GROUP BY consumer, state;
INSERT INTO tenant_tally SELECT tenant, state, count(*) FROM step GROUP BY tenant, state;

CREATE TRIGGER step_added AFTER INSERT ON step BEGIN
  INSERT INTO tally VALUES(new.consumer, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
  INSERT INTO tenant_tally VALUES(new.tenant, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER step_moved AFTER UPDATE OF state ON step WHEN old.state <> new.state
BEGIN
  UPDATE tally SET n = n - 1 WHERE consumer = old.consumer AND state = old.state;
  INSERT INTO tally VALUES(new.consumer, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
  UPDATE tenant_tally SET n = n - 1 WHERE tenant = old.tenant AND state = old.state;
  INSERT INTO tenant_tally VALUES(new.tenant, new.state, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER step_removed AFTER DELETE ON step BEGIN
  UPDATE tally SET n = n - 1 WHERE consumer = old.consumer AND state = old.state;
  UPDATE tenant_tally SET n = n - 1 WHERE tenant = old.tenant AND state = old.state;
END;

-- A step that becomes ready stands in front, or behind who does. Of who stood there
-- before nothing is known but that it is the second now.
CREATE TRIGGER step_added_ready AFTER INSERT ON step WHEN new.state = 'ready' BEGIN
  INSERT OR IGNORE INTO front SELECT consumer, priority, turn, id, tenant FROM step
    WHERE consumer = new.consumer AND tenant = new.tenant AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1;
  DELETE FROM front WHERE (consumer, priority, turn, step) = (
    SELECT consumer, priority, turn, id FROM step
    WHERE consumer = new.consumer AND tenant = new.tenant AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1 OFFSET 1);
END;
CREATE TRIGGER step_moved_ready AFTER UPDATE OF state ON step
  WHEN new.state = 'ready' AND old.state <> 'ready'
BEGIN
  INSERT OR IGNORE INTO front SELECT consumer, priority, turn, id, tenant FROM step
    WHERE consumer = new.consumer AND tenant = new.tenant AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1;
  DELETE FROM front WHERE (consumer, priority, turn, step) = (
    SELECT consumer, priority, turn, id FROM step
    WHERE consumer = new.consumer AND tenant = new.tenant AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1 OFFSET 1);
END;
CREATE TRIGGER step_moved_on AFTER UPDATE OF state ON step
  WHEN old.state = 'ready' AND new.state <> 'ready'
BEGIN
  DELETE FROM front WHERE consumer = old.consumer AND priority = old.priority
    AND turn = old.turn AND step = old.id;
  INSERT OR IGNORE INTO front SELECT consumer, priority, turn, id, tenant FROM step
    WHERE consumer = old.consumer AND tenant = old.tenant AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1;
END;
CREATE TRIGGER step_removed_ready AFTER DELETE ON step WHEN old.state = 'ready' BEGIN
  DELETE FROM front WHERE consumer = old.consumer AND priority = old.priority
    AND turn = old.turn AND step = old.id;
  INSERT OR IGNORE INTO front SELECT consumer, priority, turn, id, tenant FROM step
    WHERE consumer = old.consumer AND tenant = old.tenant AND state = 'ready'
    ORDER BY priority, turn, id LIMIT 1;
END;
