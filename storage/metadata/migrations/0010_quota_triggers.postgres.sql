-- Whoever links a blob or sets a tag, and whoever takes one away, is counted where a quota counts the repository.
CREATE FUNCTION quota_link() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO quota_blobs AS q (quota, digest, size, links)
      SELECT r.quota, NEW.digest, b.size, 1 FROM quota_repositories r JOIN blobs b ON b.digest = NEW.digest WHERE r.repository = NEW.repository
      ON CONFLICT (quota, digest) DO UPDATE SET links = q.links + 1;
    RETURN NULL;
  END $$;
CREATE FUNCTION quota_unlink() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    UPDATE quota_blobs SET links = links - 1
      WHERE digest = OLD.digest AND quota IN (SELECT quota FROM quota_repositories WHERE repository = OLD.repository);
    DELETE FROM quota_blobs
      WHERE digest = OLD.digest AND links = 0 AND quota IN (SELECT quota FROM quota_repositories WHERE repository = OLD.repository);
    RETURN NULL;
  END $$;
CREATE FUNCTION quota_blob() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF TG_OP = 'INSERT' THEN
      INSERT INTO quota_changes (quota, bytes, tags) VALUES (NEW.quota, NEW.size, 0);
    ELSE
      INSERT INTO quota_changes (quota, bytes, tags) VALUES (OLD.quota, -OLD.size, 0);
    END IF;
    RETURN NULL;
  END $$;
CREATE FUNCTION quota_tag() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF TG_OP = 'INSERT' THEN
      INSERT INTO quota_changes (quota, bytes, tags) SELECT quota, 0, 1 FROM quota_repositories WHERE repository = NEW.repository;
    ELSE
      INSERT INTO quota_changes (quota, bytes, tags) SELECT quota, 0, -1 FROM quota_repositories WHERE repository = OLD.repository;
    END IF;
    RETURN NULL;
  END $$;
-- A blob that was adopted cut off, and came whole then.
CREATE FUNCTION quota_resize() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO quota_changes (quota, bytes, tags)
      SELECT quota, NEW.size - size, 0 FROM quota_blobs WHERE digest = NEW.digest AND quota IN (SELECT id FROM quotas);
    UPDATE quota_blobs SET size = NEW.size WHERE digest = NEW.digest AND quota IN (SELECT id FROM quotas);
    RETURN NULL;
  END $$;
CREATE TRIGGER quota_links AFTER INSERT ON repository_blobs FOR EACH ROW EXECUTE FUNCTION quota_link();
CREATE TRIGGER quota_unlinks AFTER DELETE ON repository_blobs FOR EACH ROW EXECUTE FUNCTION quota_unlink();
CREATE TRIGGER quota_blobs_changed AFTER INSERT OR DELETE ON quota_blobs FOR EACH ROW EXECUTE FUNCTION quota_blob();
CREATE TRIGGER quota_tags_changed AFTER INSERT OR DELETE ON tags FOR EACH ROW EXECUTE FUNCTION quota_tag();
CREATE TRIGGER quota_blobs_resized AFTER UPDATE OF size ON blobs FOR EACH ROW WHEN (NEW.size <> OLD.size) EXECUTE FUNCTION quota_resize();
