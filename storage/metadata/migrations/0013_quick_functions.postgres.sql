-- What every push calls. A function of the language sql is planned anew each time, and most repositories have no quota.
CREATE OR REPLACE FUNCTION fill_edges(repository bigint, digest bytea) RETURNS void VOLATILE LANGUAGE plpgsql AS $$
  BEGIN
    UPDATE manifest_blobs AS e SET linked = e.digest WHERE e.repository = $1 AND e.digest = $2 AND e.linked IS NULL;
  END $$;
CREATE OR REPLACE FUNCTION quota_link() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF EXISTS (SELECT 1 FROM quota_repositories WHERE repository = NEW.repository) THEN
      INSERT INTO quota_blobs AS q (quota, digest, size, links)
        SELECT r.quota, NEW.digest, b.size, 1 FROM quota_repositories r JOIN blobs b ON b.digest = NEW.digest WHERE r.repository = NEW.repository
        ON CONFLICT (quota, digest) DO UPDATE SET links = q.links + 1;
    END IF;
    RETURN NULL;
  END $$;
CREATE OR REPLACE FUNCTION quota_tag() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF TG_OP = 'INSERT' THEN
      IF EXISTS (SELECT 1 FROM quota_repositories WHERE repository = NEW.repository) THEN
        INSERT INTO quota_changes (quota, bytes, tags) SELECT quota, 0, 1 FROM quota_repositories WHERE repository = NEW.repository;
      END IF;
    ELSIF EXISTS (SELECT 1 FROM quota_repositories WHERE repository = OLD.repository) THEN
      INSERT INTO quota_changes (quota, bytes, tags) SELECT quota, 0, -1 FROM quota_repositories WHERE repository = OLD.repository;
    END IF;
    RETURN NULL;
  END $$;
