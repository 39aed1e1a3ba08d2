-- What tags pointed to before. Together with manifests.deleted_at and repository_blobs.deleted_at this is the trash: rows that keep
-- what they reference, and that nobody sees.
CREATE TABLE tag_history (
  id         {id},
  repository {int} NOT NULL REFERENCES repositories (id),
  name       {text} NOT NULL,
  digest     {bytes} NOT NULL,
  set_at     {int} NOT NULL,
  set_by     {text} NOT NULL,
  ended_at   {int} NOT NULL,
  ended_by   {text} NOT NULL,
  deleted    {int} NOT NULL
) {strict};
CREATE INDEX tag_history_name ON tag_history (repository, name, id);
CREATE INDEX tag_history_digest ON tag_history (repository, digest);
CREATE INDEX tag_history_ended_at ON tag_history (ended_at);
CREATE INDEX manifests_deleted_at ON manifests (deleted_at) WHERE deleted_at IS NOT NULL;
ALTER TABLE repository_blobs ADD COLUMN deleted_at {int};
