-- Which repositories have a manifest that is not deleted: the catalog asks for a hundred at a time. PostgreSQL would take this index to look
-- for one manifest, as long as it has not counted rows.
CREATE INDEX manifests_shown ON manifests (repository) WHERE deleted_at IS NULL;
