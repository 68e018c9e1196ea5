-- Text is stored compressed, and every derivative has its hash.

-- '' or 'gzip'; `size` are the bytes in the store, `length` those of the file itself.
ALTER TABLE derivative ADD COLUMN coding TEXT NOT NULL DEFAULT '';
ALTER TABLE derivative ADD COLUMN length INTEGER;
-- SHA-256 in hexadecimal, '' if nobody has computed it: of the bytes in the store, and
-- of the file itself
ALTER TABLE derivative ADD COLUMN sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE derivative ADD COLUMN plain_sha256 TEXT NOT NULL DEFAULT '';
UPDATE derivative SET length = size;
