-- For blob stores that write objects whole, and for several servers beside each other.
-- spare is a key that the claim of an upload may go on under, when it can't append to what is under key.
ALTER TABLE uploads ADD COLUMN spare {text};
CREATE UNIQUE INDEX uploads_spare ON uploads (spare) WHERE spare IS NOT NULL;
-- When the start that makes keys under a prefix was last seen running.
ALTER TABLE generations ADD COLUMN seen_at {int} NOT NULL DEFAULT 0;
-- How often the bytes under a dead key were deleted.
ALTER TABLE dead_keys ADD COLUMN swept {int} NOT NULL DEFAULT 0;
