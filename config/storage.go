package config

import "time"

// Storage says where the bytes of blobs are kept: in filesystem or in s3, of which one may be there. REGISTRY_STORAGE=s3 chooses, whatever
// the file has; without either it is filesystem.
type Storage struct {
	// Driver is the backend that was configured: filesystem, s3, or empty when the configuration names none, which means
	// filesystem.
	Driver     string     `yaml:"-" choice:"filesystem s3"`
	FileSystem FileSystem `yaml:"filesystem"`
	S3         S3         `yaml:"s3"`
	// Directory is where everything but blobs is kept when those are in S3: keys, certificates, the SQLite database. Empty means
	// /var/lib/registry. With filesystem it has no effect: everything is in filesystem.rootdirectory.
	Directory   string      `yaml:"directory,omitempty"`
	Delete      Delete      `yaml:"delete"`
	Redirect    Redirect    `yaml:"redirect,omitempty"`
	Cache       Cache       `yaml:"cache,omitempty"`
	Maintenance Maintenance `yaml:"maintenance"`
}

// MarshalYAML leaves out the backends that are not in use.
func (s Storage) MarshalYAML() (any, error) {
	type common struct {
		Directory   string      `yaml:"directory,omitempty"`
		Delete      Delete      `yaml:"delete"`
		Redirect    Redirect    `yaml:"redirect,omitempty"`
		Cache       Cache       `yaml:"cache,omitempty"`
		Maintenance Maintenance `yaml:"maintenance"`
	}
	rest := common{s.Directory, s.Delete, s.Redirect, s.Cache, s.Maintenance}
	if s.Driver == "s3" {
		return struct {
			S3     S3 `yaml:"s3"`
			common `yaml:",inline"`
		}{s.S3, rest}, nil
	}
	return struct {
		FileSystem FileSystem `yaml:"filesystem"`
		common     `yaml:",inline"`
	}{s.FileSystem, rest}, nil
}

// FileSystem is the backend that keeps blobs in a directory.
type FileSystem struct {
	// RootDirectory is that directory. Empty means /var/lib/registry; where that is not there, and the configuration has nothing of
	// storage.filesystem or storage.s3, berth in XDG_DATA_HOME, which is ~/.local/share without that.
	RootDirectory string `yaml:"rootdirectory,omitempty"`
	// MinFree is the free space below which pushes are refused.
	MinFree Size `yaml:"minfree"`
}

// S3 is the backend that keeps blobs in a bucket.
type S3 struct {
	// AccessKey is the name of the key that requests are signed with. Without it the AWS default chain looks for credentials.
	AccessKey Secret `yaml:"accesskey,omitempty"`
	// SecretKey is that key.
	SecretKey Secret `yaml:"secretkey,omitempty"`
	// SessionToken belongs to a key that is temporary.
	SessionToken Secret `yaml:"sessiontoken,omitempty"`
	// Bucket is the bucket's name. It has to be there.
	Bucket string `yaml:"bucket,omitempty"`
	// Region is where the bucket is.
	Region string `yaml:"region,omitempty"`
	// RegionEndpoint is the URL or host of a server that is not AWS.
	RegionEndpoint string `yaml:"regionendpoint,omitempty"`
	// ForcePathStyle puts the bucket into the path of URLs. When it is not set, that is true with RegionEndpoint, and else false.
	ForcePathStyle *bool `yaml:"forcepathstyle,omitempty"`
	// RootDirectory comes before all keys.
	RootDirectory string `yaml:"rootdirectory,omitempty"`
	// Secure is false for plain HTTP, where RegionEndpoint does not say.
	Secure bool `yaml:"secure"`
	// SkipVerify believes any certificate of the server.
	SkipVerify bool `yaml:"skipverify,omitempty"`
	// UseDualStack asks AWS over IPv6, too.
	UseDualStack bool `yaml:"usedualstack,omitempty"`
	// UseFIPSEndpoint takes AWS's endpoints with validated cryptography.
	UseFIPSEndpoint bool `yaml:"usefipsendpoint,omitempty"`
	// Accelerate asks AWS by S3 Transfer Acceleration.
	Accelerate bool `yaml:"accelerate,omitempty"`
	// UserAgent is added to that of the requests.
	UserAgent string `yaml:"useragent,omitempty"`
	// Encrypt has the server encrypt objects, with the KMS key KeyID if there is one.
	Encrypt bool `yaml:"encrypt,omitempty"`
	// KeyID is a key of AWS KMS.
	KeyID string `yaml:"keyid,omitempty"`
	// StorageClass is that of the objects; empty leaves it to the server.
	StorageClass string `yaml:"storageclass,omitempty"`
	// ObjectACL is a canned ACL for the objects; empty sends none.
	ObjectACL string `yaml:"objectacl,omitempty"`
	// ChunkSize is the size of the parts of large objects.
	ChunkSize Size `yaml:"chunksize"`
	// Memory bounds what all uploads together hold.
	Memory Size `yaml:"memory"`
	// Checksum is what protects the parts on their way.
	Checksum string `yaml:"checksum" oneof:"crc32 sha256 off"`
}

// Delete is about clients' deletes.
type Delete struct {
	// Enabled is true unless the configuration says otherwise (distribution's default is false).
	Enabled bool `yaml:"enabled"`
	// Children says what becomes of the delete of a manifest that a client's index lists: refuse, which is what empty means, or sparse,
	// which leaves the index without it.
	Children string `yaml:"children,omitempty" oneof:"refuse sparse"`
}

// Redirect is about answering the read of a blob with the URL of the backend. The filesystem backend never does.
type Redirect struct {
	// Disable has the registry send the bytes itself.
	Disable bool `yaml:"disable,omitempty"`
	// Endpoint takes the place of S3.RegionEndpoint in these URLs, where clients call the server by another name.
	Endpoint string `yaml:"endpoint,omitempty"`
}

// Cache is about keeping what was read from the backend. Distribution's caches of descriptors have no counterpart.
type Cache struct {
	Disk DiskCache `yaml:"disk,omitempty"`
}

// DiskCache keeps the blobs that clients read last on a local disk. It is for S3 with redirect.disable; directory and size are both set,
// or none.
type DiskCache struct {
	// Directory is where, for one registry alone.
	Directory string `yaml:"directory,omitempty"`
	// Size bounds what the blobs take there. Larger ones are not kept.
	Size Size `yaml:"size,omitempty"`
}

// Maintenance is about what the registry does by itself.
type Maintenance struct {
	UploadPurging UploadPurging `yaml:"uploadpurging"`
	ReadOnly      ReadOnly      `yaml:"readonly,omitempty"`
}

// ReadOnly is about refusing every write.
type ReadOnly struct {
	// Enabled refuses them.
	Enabled bool `yaml:"enabled,omitempty"`
}

// UploadPurging is about uploads that nobody goes on with.
type UploadPurging struct {
	// Enabled ends them once they are too old.
	Enabled bool `yaml:"enabled"`
	// Age is how long an upload is kept after its last request.
	Age time.Duration `yaml:"age"`
	// Interval is here for the files of distribution's registry: it is checked, and uploads are looked at as often as GC.Interval says.
	Interval time.Duration `yaml:"interval"`
	// DryRun keeps every upload, as if Enabled were false.
	DryRun bool `yaml:"dryrun,omitempty"`
}

// Metadata says where the facts are kept.
type Metadata struct {
	SQLite   SQLite   `yaml:"sqlite,omitempty"`
	Postgres Postgres `yaml:"postgres,omitempty"`
}

// Postgres is a PostgreSQL database, which several registries may share.
type Postgres struct {
	// DSN is its address, as in postgres://berth@db.lan/berth?sslmode=verify-full. Empty means SQLite.
	DSN Secret `yaml:"dsn,omitempty"`
	// Connections is the most connections of one registry; 0 means 16.
	Connections int `yaml:"connections,omitempty"`
}

// SQLite is the embedded database.
type SQLite struct {
	// Path is the database's file; empty means metadata.sqlite in the data directory.
	Path   string `yaml:"path,omitempty"`
	Backup Backup `yaml:"backup,omitempty"`
}

// Backup is about snapshots of the database in the blob store.
type Backup struct {
	// Interval is the time between two, at least a minute; zero takes none. When it is not set, that is 24h with blobs in S3 and SQLite,
	// and else zero.
	Interval time.Duration `yaml:"interval"`
	// Keep is how many are kept, and with them the bytes of the blobs that they name.
	Keep int `yaml:"keep"`
}
