-- Whoever links a blob or sets a tag, and whoever takes one away, is counted where a quota counts the repository.
CREATE TRIGGER quota_links AFTER INSERT ON repository_blobs
  WHEN EXISTS (SELECT 1 FROM quota_repositories WHERE repository = NEW.repository)
  BEGIN
    INSERT INTO quota_blobs (quota, digest, size, links)
      SELECT q.quota, NEW.digest, b.size, 1 FROM quota_repositories q JOIN blobs b ON b.digest = NEW.digest WHERE q.repository = NEW.repository
      ON CONFLICT (quota, digest) DO UPDATE SET links = links + 1;
  END;
CREATE TRIGGER quota_unlinks AFTER DELETE ON repository_blobs
  WHEN EXISTS (SELECT 1 FROM quota_repositories WHERE repository = OLD.repository)
  BEGIN
    UPDATE quota_blobs SET links = links - 1
      WHERE digest = OLD.digest AND quota IN (SELECT quota FROM quota_repositories WHERE repository = OLD.repository);
    DELETE FROM quota_blobs
      WHERE digest = OLD.digest AND links = 0 AND quota IN (SELECT quota FROM quota_repositories WHERE repository = OLD.repository);
  END;
CREATE TRIGGER quota_blobs_added AFTER INSERT ON quota_blobs
  BEGIN
    INSERT INTO quota_changes (quota, bytes, tags) VALUES (NEW.quota, NEW.size, 0);
  END;
CREATE TRIGGER quota_blobs_removed AFTER DELETE ON quota_blobs
  BEGIN
    INSERT INTO quota_changes (quota, bytes, tags) VALUES (OLD.quota, -OLD.size, 0);
  END;
CREATE TRIGGER quota_tags_added AFTER INSERT ON tags
  BEGIN
    INSERT INTO quota_changes (quota, bytes, tags) SELECT quota, 0, 1 FROM quota_repositories WHERE repository = NEW.repository;
  END;
CREATE TRIGGER quota_tags_removed AFTER DELETE ON tags
  BEGIN
    INSERT INTO quota_changes (quota, bytes, tags) SELECT quota, 0, -1 FROM quota_repositories WHERE repository = OLD.repository;
  END;
-- A blob that was adopted cut off, and came whole then.
CREATE TRIGGER quota_blobs_resized AFTER UPDATE OF size ON blobs WHEN NEW.size <> OLD.size
  BEGIN
    INSERT INTO quota_changes (quota, bytes, tags)
      SELECT quota, NEW.size - size, 0 FROM quota_blobs WHERE digest = NEW.digest AND quota IN (SELECT id FROM quotas);
    UPDATE quota_blobs SET size = NEW.size WHERE digest = NEW.digest AND quota IN (SELECT id FROM quotas);
  END;
