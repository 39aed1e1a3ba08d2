-- The registry makes indexes too: of a tag, assembled says that what it points to was, and that the next push may move it;
-- of a manifest, that no client ever pushed it and no other index lists it: such an index gives way when its images are deleted.
ALTER TABLE tags ADD COLUMN assembled {int} NOT NULL DEFAULT 0;
ALTER TABLE manifests ADD COLUMN assembled {int} NOT NULL DEFAULT 0;
