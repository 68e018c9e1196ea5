-- Whether an upload's length is its end. In the IETF draft it is not until a request has
-- said that it brings the last bytes, and how many there are.

ALTER TABLE upload ADD COLUMN has_end INTEGER NOT NULL DEFAULT 1;
UPDATE upload SET has_end = 0 WHERE dialect = 'ietf' AND state = 'receiving';
