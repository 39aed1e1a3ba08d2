-- Which repositories have a manifest that is not deleted: the catalog asks for a hundred at a time.
CREATE INDEX manifests_shown ON manifests (repository) WHERE deleted_at IS NULL;
