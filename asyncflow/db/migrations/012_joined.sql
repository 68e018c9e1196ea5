-- A joined upload: from which byte on its own blob has what its parts had. NULL: nothing
-- was taken out of them, they have it all.
ALTER TABLE upload ADD COLUMN joined INTEGER;
