-- Since when a blob is quarantined: its bytes are missing, short or wrong. Nobody gets them, what references the blob stays, and who
-- pushes the content again heals it.
ALTER TABLE blobs ADD COLUMN quarantined_at {int};
