-- Snapshots of this database in the blob store, under their names as keys. One that has no finished_at is not whole.
CREATE TABLE backups (
  name        {text} NOT NULL PRIMARY KEY,
  started_at  {int} NOT NULL,
  finished_at {int},
  size        {int} NOT NULL
) {rowless};
-- When a dead key died, and since when it was a blob's: null when it never was. A snapshot from between needs its bytes.
ALTER TABLE dead_keys ADD COLUMN died_at {int} NOT NULL DEFAULT 0;
ALTER TABLE dead_keys ADD COLUMN stored_at {int};
