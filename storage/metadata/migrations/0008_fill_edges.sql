-- Links a blob to the manifests that wait for it, as of the time when it is called: within a statement, the rest of it has looked before.
{postgres} CREATE FUNCTION fill_edges(repository bigint, digest bytea) RETURNS void VOLATILE LANGUAGE sql AS 'UPDATE manifest_blobs AS e SET linked = e.digest WHERE e.repository = $1 AND e.digest = $2 AND e.linked IS NULL';
