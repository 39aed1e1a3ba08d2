-- The bytes of small blobs and uploads under their keys, where they are not in the blob store.
CREATE TABLE small_objects (
  key     {text} NOT NULL PRIMARY KEY,
  kept_at {int} NOT NULL,
  content {bytes} NOT NULL
) {strict};
