package config

import "time"

// minChunk is the smallest part of S3 in bytes, but for the last of an object.
const minChunk = 5 << 20

// shortestBackup is the shortest time between snapshots.
const shortestBackup = time.Minute

func (l *loader) checkMetadata(m Metadata) {
	const key = "metadata.sqlite.backup"
	switch {
	case m.Postgres.DSN != "":
		l.unused(key)
	case m.SQLite.Backup.Interval > 0 && m.SQLite.Backup.Interval < shortestBackup:
		l.failAt(key+".interval", "is %s: at least a minute, or 0s for no snapshots", m.SQLite.Backup.Interval)
	case m.SQLite.Backup.Keep < 1:
		l.failAt(key+".keep", "is %d: keep at least one, or set %s.interval to 0s", m.SQLite.Backup.Keep, key)
	}
}

func (l *loader) checkStorage(s Storage) {
	if s.Driver != "s3" {
		l.unused("storage.directory")
		l.unused("storage.redirect.endpoint")
		l.unused("storage.cache.disk")
		return
	}
	l.checkCache(s)
	if s.Redirect.Endpoint != "" && (s.S3.UseDualStack || s.S3.UseFIPSEndpoint || s.S3.Accelerate) {
		l.failAt("storage.redirect.endpoint", "can't be used with storage.s3.usedualstack, storage.s3.usefipsendpoint and storage.s3.accelerate, "+
			"which name other addresses")
	}
	if s.S3.UseFIPSEndpoint && (s.S3.RegionEndpoint != "" || s.S3.Accelerate) {
		l.failAt("storage.s3.usefipsendpoint", "can't be used with storage.s3.regionendpoint and storage.s3.accelerate, which name other addresses")
	}
	if s.S3.Bucket == "" {
		l.failAt("storage.s3.bucket", "is missing: name the bucket")
	}
	if s.S3.Region == "" && s.S3.RegionEndpoint == "" {
		l.failAt("storage.s3.region", "is missing: name the bucket's region, or the server with storage.s3.regionendpoint")
	}
	switch {
	case s.S3.AccessKey != "" && s.S3.SecretKey == "":
		l.failAt("storage.s3.secretkey", "is missing beside storage.s3.accesskey; without both, the credentials of the machine are used")
	case s.S3.AccessKey == "" && s.S3.SecretKey != "":
		l.failAt("storage.s3.accesskey", "is missing beside storage.s3.secretkey; without both, the credentials of the machine are used")
	}
	if s.S3.ChunkSize < minChunk {
		l.failAt("storage.s3.chunksize", "is %s: S3 takes no parts below 5MiB", s.S3.ChunkSize)
	}
	if s.S3.ChunkSize > s.S3.Memory/4 {
		l.failAt("storage.s3.chunksize", "is %s, more than a quarter of storage.s3.memory, %s: make it smaller, or give more memory", s.S3.ChunkSize, s.S3.Memory)
	}
}

// checkCache looks at the cache for what clients read from the registry instead of the bucket.
func (l *loader) checkCache(s Storage) {
	const key = "storage.cache.disk"
	disk := s.Cache.Disk
	switch {
	case disk == DiskCache{}:
	case disk.Directory == "":
		l.failAt(key+".directory", "is missing beside storage.cache.disk.size: name a directory on a local disk")
	case disk.Size == 0:
		l.failAt(key+".size", "is missing beside storage.cache.disk.directory: say how much may be kept there, such as 20GiB")
	case !s.Redirect.Disable:
		l.ignore(l.find(key), key+" without storage.redirect.disable")
	}
}
