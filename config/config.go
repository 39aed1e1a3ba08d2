// Package config reads the registry's configuration: the YAML file of distribution's registry with Berth's own keys,
// overridden by REGISTRY_* environment variables, into one typed struct.
//
// It guarantees that a Config which was returned without an error is complete (every default is filled in) and
// consistent, and that nothing the file says was dropped in silence: an unknown key, a key given twice and a value of
// the wrong type are errors, and so is a key that would change what is stored, served or allowed but that this version
// does not have. Other keys without effect, and variables that begin with REGISTRY_ but belong to other programs, are
// named in warnings. Secrets are never part of an error, of a warning or of the printed configuration.
//
// It does not look at the files, directories and addresses that a configuration names, except for those that hold a
// secret (REGISTRY_…_FILE).
//
// It fails with an *Error that lists every problem at once, each with its line or variable, and never panics, whatever
// the input.
package config

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"
)

// PathVariable is the environment variable that names the configuration file when the command line does not.
const PathVariable = "REGISTRY_CONFIGURATION_PATH"

// Config is a whole configuration. Load and Parse make one; Default is one without a file.
//
// The tags are the schema: yaml names the key, oneof lists the values that a string may have, and choice lists the
// keys of a section of which one is chosen, either by being there or as the section's only value.
type Config struct {
	// Version is the version of the file's format, always "0.1".
	Version string `yaml:"version"`
	// Log is what is logged and how.
	Log Log `yaml:"log"`
	// LogLevel is distribution's old name of log.level.
	LogLevel string   `yaml:"loglevel,omitempty" oneof:"debug info warn error"`
	HTTP     HTTP     `yaml:"http"`
	Storage  Storage  `yaml:"storage"`
	Metadata Metadata `yaml:"metadata,omitempty"`
	Auth     Auth     `yaml:"auth"`
	// Access are the rules that say what users may do. Without any, whoever is logged in may do everything.
	Access []AccessRule `yaml:"access,omitempty"`
	// Groups are users by the name of their group, for Access.
	Groups     map[string][]string `yaml:"groups,omitempty"`
	Audit      Audit               `yaml:"audit,omitempty"`
	Admin      Admin               `yaml:"admin,omitempty"`
	GC         GC                  `yaml:"gc"`
	Validation Validation          `yaml:"validation"`
	Policy     Policy              `yaml:"policy,omitempty"`
	// Indexes say of which tags for single platforms the registry makes indexes.
	Indexes []IndexRule `yaml:"indexes,omitempty"`
	// Immutability names tags that never move once they are set.
	Immutability []ImmutabilityRule `yaml:"immutability,omitempty"`
	// Quota limits what repositories hold.
	Quota     []QuotaRule `yaml:"quota,omitempty"`
	Trash     Trash       `yaml:"trash"`
	Retention Retention   `yaml:"retention"`
	Catalog   Catalog     `yaml:"catalog"`
}

// Log says what is logged and how.
type Log struct {
	// Level is the least important level that is logged.
	Level string `yaml:"level" oneof:"debug info warn error"`
	// Formatter is the form of a log line. logstash is written as json.
	Formatter string `yaml:"formatter" oneof:"text json logstash"`
	// Fields are added to every line: values by their names.
	Fields    map[string]string `yaml:"fields,omitempty"`
	AccessLog AccessLog         `yaml:"accesslog,omitempty"`
}

// MinLevel returns Level for package slog.
func (l Log) MinLevel() slog.Level {
	var level slog.Level
	// Level is one of the names that slog knows; the zero value of level, info, stands for the zero value of Log.
	_ = level.UnmarshalText([]byte(l.Level))
	return level
}

// AccessLog is about the line that is logged for each request.
type AccessLog struct {
	// Disabled leaves that line out.
	Disabled bool `yaml:"disabled,omitempty"`
}

// HTTP says where and how the registry is served.
type HTTP struct {
	// Net is the kind of Addr: tcp, or unix for the path of a socket.
	Net string `yaml:"net" oneof:"tcp unix"`
	// Addr is where the server listens: HOST:PORT or a path.
	Addr string `yaml:"addr"`
	// Host is the absolute URL under which clients reach the registry; empty when unknown.
	Host string `yaml:"host,omitempty"`
	// Prefix is the path under which /v2/ is served, with a slash at either end; empty means the root.
	Prefix string `yaml:"prefix,omitempty"`
	// RelativeURLs is false for a Location that begins with the request's own scheme and host. Else it is a path, which clients resolve
	// against the address that they use. Where Host is set, Location begins with that, whatever this says.
	RelativeURLs *bool `yaml:"relativeurls,omitempty"`
	// DrainTimeout is how long a stopping server waits for its requests.
	DrainTimeout time.Duration `yaml:"draintimeout"`
	// Headers are added to every answer.
	Headers Headers `yaml:"headers,omitempty"`
	// TrustedProxies are the networks whose X-Forwarded-For is believed, and the PROXY header (versions 1 and 2) with which a connection
	// from there may begin. A client that a balancer of connections passes on without one could send its own: list none such.
	TrustedProxies []Network `yaml:"trustedproxies,omitempty"`
	TLS            TLS       `yaml:"tls"`
	HTTP2          HTTP2     `yaml:"http2"`
	H2C            H2C       `yaml:"h2c,omitempty"`
	Debug          Debug     `yaml:"debug,omitempty"`
}

// Debug is about a port of its own for those who run the registry: profiles, for this machine only, and metrics. It has neither
// TLS nor passwords.
type Debug struct {
	// Addr is HOST:PORT. Empty opens no such port.
	Addr       string     `yaml:"addr,omitempty"`
	Prometheus Prometheus `yaml:"prometheus,omitempty"`
}

// Prometheus is about metrics in its format, on the port of Debug.
type Prometheus struct {
	// Enabled serves them.
	Enabled bool `yaml:"enabled,omitempty"`
	// Path is where they are; /metrics when it is empty.
	Path string `yaml:"path,omitempty"`
}

// Headers maps names of HTTP headers, in any case, to their values.
type Headers map[string][]string

// HTTP2 is about HTTP/2 over TLS.
type HTTP2 struct {
	// Disabled is true unless the file says otherwise: large blobs take half as much processor time again over HTTP/2, whose frames are as
	// small as the client says, and docker, containerd, BuildKit and podman never ask for it.
	Disabled bool `yaml:"disabled"`
}

// H2C is about HTTP/2 without TLS.
type H2C struct {
	// Enabled allows it, where the mode of TLS is off.
	Enabled bool `yaml:"enabled,omitempty"`
}

// The values of TLS.Mode.
const (
	TLSAuto  = "auto"  // a certificate of the registry's own CA
	TLSFiles = "files" // TLS.Certificate and TLS.Key
	TLSACME  = "acme"  // certificates of an ACME server, as TLS.LetsEncrypt says
	TLSOff   = "off"   // plain HTTP
)

// TLS says how connections are secured.
type TLS struct {
	// Mode is auto for a certificate of the registry's own CA, files for one that is given, acme for those of an ACME server, and off for
	// plain HTTP. Without it, it is files where Certificate or Key is set, acme where something of LetsEncrypt is, and else auto.
	Mode string `yaml:"mode" oneof:"auto files acme off"`
	// Certificate is the path of a PEM file with the certificate and those between it and its CA, for the mode files.
	Certificate string `yaml:"certificate,omitempty"`
	// Key is the path of a PEM file with the certificate's key.
	Key string `yaml:"key,omitempty"`
	// Hosts are the names and addresses that an automatic certificate is made for, besides those that the registry
	// finds by itself.
	Hosts []string `yaml:"hosts,omitempty"`
	// Learn adds the names and private addresses that clients nearby use to an automatic certificate.
	Learn bool `yaml:"learn"`
	// Auto is the CA of automatic certificates. When it is empty the registry makes one.
	Auto Authority `yaml:"auto,omitempty"`
	// LetsEncrypt says how certificates come from an ACME server, for the mode acme.
	LetsEncrypt LetsEncrypt `yaml:"letsencrypt,omitempty"`
	// ClientCAs are paths of PEM files with the CAs of clients' certificates; empty means that clients need none.
	ClientCAs []string `yaml:"clientcas,omitempty"`
	// ClientAuth says what is asked of clients when there are ClientCAs. Empty means require-and-verify-client-cert.
	ClientAuth string `yaml:"clientauth,omitempty" oneof:"request-client-cert require-any-client-cert verify-client-cert-if-given require-and-verify-client-cert"`
	// MinimumTLS is the oldest protocol version that is spoken.
	MinimumTLS string `yaml:"minimumtls" oneof:"tls1.2 tls1.3"`
	// CipherSuites are names of crypto/tls, for TLS 1.2 only; empty means Go's choice.
	CipherSuites []string `yaml:"ciphersuites,omitempty"`
}

// Authority is a CA, as paths of PEM files: both are set, or none.
type Authority struct {
	// Directory is where the registry keeps its CA and the certificate; several may share one. Empty means tls in the data
	// directory.
	Directory string `yaml:"directory,omitempty"`
	// Certificate is the path of a PEM file with the certificate of a CA, which signs in place of one that the registry makes.
	Certificate string `yaml:"certificate,omitempty"`
	// Key is the path of a PEM file with that CA's key.
	Key string `yaml:"key,omitempty"`
}

// LetsEncrypt says how certificates come from an ACME server.
type LetsEncrypt struct {
	// CacheFile is the directory, in spite of its name, of account and certificates; empty means tls/acme in the data directory.
	CacheFile string `yaml:"cachefile,omitempty"`
	// Email is where the ACME server writes to about the account.
	Email string `yaml:"email,omitempty"`
	// Hosts are the names to get certificates for.
	Hosts []string `yaml:"hosts,omitempty"`
	// DirectoryURL is the ACME server; empty means that of letsencrypt.org.
	DirectoryURL string `yaml:"directoryurl,omitempty"`
}

func (e LetsEncrypt) given() bool {
	return e.CacheFile+e.Email+e.DirectoryURL != "" || len(e.Hosts) > 0
}

// Storage says where the bytes of blobs are kept.
type Storage struct {
	// Driver is the backend that was configured: filesystem, s3, or empty when the configuration names none, which means
	// filesystem.
	Driver     string     `yaml:"-" choice:"filesystem s3"`
	FileSystem FileSystem `yaml:"filesystem"`
	S3         S3         `yaml:"s3"`
	// Directory is where everything but blobs is kept: keys, certificates, the SQLite database. Empty means beside the blobs where
	// those are in a directory, else /var/lib/registry, or, where that is not there, the user's own.
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
	// RootDirectory is that directory; empty means /var/lib/registry, or, where that is not there, the user's own.
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

// DiskCache is a directory with the blobs that clients read last, for a backend that is elsewhere and to which clients are not
// redirected. Both are set, or none.
type DiskCache struct {
	// Directory belongs to one registry.
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
	// Interval is the time between two; zero takes none. A day where blobs are in S3, else none.
	Interval time.Duration `yaml:"interval"`
	// Keep is how many are kept, and with them the bytes of the blobs that they name.
	Keep int `yaml:"keep"`
}

// The values of Auth.Method.
const (
	AuthInitial  = ""         // one user, admin, with Auth.InitialPassword or a generated password
	AuthHTPasswd = "htpasswd" // the users of Auth.HTPasswd.Path
	AuthToken    = "token"    // whoever has a token of the server in Auth.Token
	AuthNone     = "none"     // everybody may do everything
)

// Auth says who may use the registry.
type Auth struct {
	// Method is AuthInitial, AuthHTPasswd, AuthToken or AuthNone.
	Method   string   `yaml:"-" choice:"htpasswd token none"`
	HTPasswd HTPasswd `yaml:"htpasswd"`
	Token    Token    `yaml:"token"`
	// InitialPassword is that of the user admin, who is the only one without another method; empty means that one is generated.
	InitialPassword Secret `yaml:"initialpassword,omitempty"`
	Tokens          Tokens `yaml:"tokens"`
}

// MarshalYAML leaves out the methods that are not in use.
func (a Auth) MarshalYAML() (any, error) {
	switch a.Method {
	case AuthNone:
		return AuthNone, nil
	case AuthToken:
		return map[string]any{AuthToken: a.Token}, nil
	case AuthHTPasswd:
		return map[string]any{AuthHTPasswd: a.HTPasswd, "tokens": a.Tokens}, nil
	}
	return map[string]any{"initialpassword": a.InitialPassword, "tokens": a.Tokens}, nil
}

// HTPasswd is a file of users and bcrypt hashes.
type HTPasswd struct {
	// Realm is what clients are told that the password is for.
	Realm string `yaml:"realm"`
	// Path is the file. A change of it counts at once.
	Path string `yaml:"path"`
}

// Token is another server that makes tokens, whose scopes alone say what their bearers may do.
type Token struct {
	// Realm is the server's URL. With AutoRedirect it is AutoRedirectPath on the host that the client used.
	Realm string `yaml:"realm"`
	// Service is whom a token has to be for: its audience.
	Service string `yaml:"service"`
	// Issuer is whom a token has to be from.
	Issuer string `yaml:"issuer"`
	// RootCertBundle is a PEM file with certificates of the server's keys. It or JWKS is set.
	RootCertBundle string `yaml:"rootcertbundle,omitempty"`
	// JWKS is a file with the server's keys in the format of that name.
	JWKS string `yaml:"jwks,omitempty"`
	// AutoRedirect is for a server beside the registry, under the same name.
	AutoRedirect bool `yaml:"autoredirect,omitempty"`
	// AutoRedirectPath is the server's path then; /auth/token when it is empty.
	AutoRedirectPath string `yaml:"autoredirectpath,omitempty"`
	// SigningAlgorithms are those that tokens may be signed by; empty means all but those with a shared secret.
	SigningAlgorithms []string `yaml:"signingalgorithms,omitempty"`
}

// Tokens are those that the registry makes itself.
type Tokens struct {
	// Refresh lets clients log in once and keep a token instead of the password.
	Refresh bool `yaml:"refresh,omitempty"`
	// Lifetime is how long a token is good for, at least a minute.
	Lifetime time.Duration `yaml:"lifetime"`
	// Key is the PEM file with the keys that sign; empty means one that the registry makes in its data directory.
	Key string `yaml:"key,omitempty"`
}

// AccessRule allows Actions to Users and Groups, and Anonymous to everybody, on Repositories.
type AccessRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Users are names of users.
	Users []string `yaml:"users,omitempty"`
	// Groups are names of Groups.
	Groups []string `yaml:"groups,omitempty"`
	// Actions are what they may do: pull, push, which is with pull, and delete, or "*" for all.
	Actions []string `yaml:"actions,omitempty"`
	// Anonymous are the actions that need no login.
	Anonymous []string `yaml:"anonymous,omitempty"`
}

// Audit says where the records of logins, denials and changes go.
type Audit struct {
	// Output is stdout, stderr or the path of a file. Empty means nowhere.
	Output string `yaml:"output,omitempty"`
}

// Admin is about how commands such as gc, user and fsck act on the running server.
type Admin struct {
	// Socket is the path of a socket, which belongs to one registry; whoever may open it may do everything. Empty means admin.sock in the
	// data directory, where its file system can hold sockets: exFAT and SMB can't.
	Socket string `yaml:"socket,omitempty"`
}

// GC is about online garbage collection.
type GC struct {
	// Interval is the longest time between two rounds of the collector.
	Interval time.Duration `yaml:"interval"`
	// Rate is how many blobs in repositories are reviewed in a second.
	Rate int `yaml:"rate"`
	// Lease is how long content that nothing references stays after it was pushed or asked for.
	Lease time.Duration `yaml:"lease"`
	// Grace is how long bytes stay after the last row that named them is gone.
	Grace time.Duration `yaml:"grace"`
}

// Trash is about what was deleted.
type Trash struct {
	// Retain is how long deleted manifests and moved tags can be restored. Zero keeps nothing.
	Retain time.Duration `yaml:"retain"`
}

// Retention is about how long tags and manifests stay.
type Retention struct {
	// Interval is the time between two looks at what may go.
	Interval time.Duration `yaml:"interval"`
	// Rules say what goes. Of several for a tag, the first decides.
	Rules []RetentionRule `yaml:"rules,omitempty"`
}

// RetentionRule says how long the tags of some repositories stay, and what has no tag.
type RetentionRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Tags are patterns, too. None means all tags.
	Tags []string `yaml:"tags,omitempty"`
	// Keep is what lets a tag stay. Without anything in it, all stay.
	Keep RetentionKeep `yaml:"keep,omitempty"`
	// Untagged is how long a manifest without a tag stays after it was pushed, pulled and untagged. Zero is for ever.
	Untagged time.Duration `yaml:"untagged,omitempty"`
	// Cache is how long a tag of a BuildKit cache stays after it was pushed and pulled. Zero is for ever.
	Cache time.Duration `yaml:"cache,omitempty"`
}

// RetentionKeep is what lets a tag stay: any one of it is enough.
type RetentionKeep struct {
	// Newest is how many that were pushed last stay.
	Newest int `yaml:"newest,omitempty"`
	// Pushed is how long ago its push may be.
	Pushed time.Duration `yaml:"pushed,omitempty"`
	// Pulled is how long ago its last pull may be.
	Pulled time.Duration `yaml:"pulled,omitempty"`
	// Tags are patterns of tags that always stay.
	Tags []string `yaml:"tags,omitempty"`
}

// ImmutabilityRule names tags that never move.
type ImmutabilityRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Tags are patterns, too. None means all tags.
	Tags []string `yaml:"tags,omitempty"`
	// Except are tags that move all the same.
	Except []string `yaml:"except,omitempty"`
}

// QuotaRule limits what the repositories that match its patterns hold together.
type QuotaRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Bytes is of blobs, each counted once. Zero does not limit them.
	Bytes Size `yaml:"bytes,omitempty"`
	// Tags is how many. Zero does not limit them.
	Tags int `yaml:"tags,omitempty"`
}

// Validation says which manifests are accepted.
type Validation struct {
	// Disabled turns the rest of the section off.
	Disabled  bool                `yaml:"disabled,omitempty"`
	Manifests ManifestsValidation `yaml:"manifests"`
}

// ManifestsValidation is about what manifests refer to.
type ManifestsValidation struct {
	// URLs is nil when any URL will do. Distribution takes none then; but images with such layers, as Windows had them until 2023
	// and the official suite has them, can't be pushed without, and to follow the URLs is up to clients: the registry never does.
	URLs    *URLs   `yaml:"urls,omitempty"`
	Indexes Indexes `yaml:"indexes"`
}

// URLs restricts the URLs of layers that are kept elsewhere. Without Allow and Deny there may be none.
type URLs struct {
	// Allow are regular expressions of those that may be used; without any, all may that Deny leaves, if it has any.
	Allow []*regexp.Regexp `yaml:"allow,omitempty"`
	// Deny are regular expressions of those that may not, whatever Allow says.
	Deny []*regexp.Regexp `yaml:"deny,omitempty"`
}

// Indexes says which images of an index must be in the repository before it.
type Indexes struct {
	// Platforms is all, none, or list for those of PlatformList.
	Platforms string `yaml:"platforms" oneof:"all none list"`
	// PlatformList are the platforms whose images must be there.
	PlatformList []Platform `yaml:"platformlist,omitempty"`
}

// Platform is what an image runs on.
type Platform struct {
	// OS is as Go calls it, such as linux.
	OS string `yaml:"os"`
	// Architecture is as Go calls it, such as arm64.
	Architecture string `yaml:"architecture"`
}

// Policy says what tags have to be like.
type Policy struct {
	// Platforms are rules about the platforms that tags are for.
	Platforms []PlatformPolicy `yaml:"platforms,omitempty"`
}

// PlatformPolicy says which platforms tags have to be for.
type PlatformPolicy struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// Tags are patterns, too. None means all tags.
	Tags []string `yaml:"tags,omitempty"`
	// Require are platforms such as linux/arm/v7.
	Require []string `yaml:"require"`
	// On says what becomes of a push that lacks one: warn, which is what empty means, or reject.
	On string `yaml:"on,omitempty" oneof:"warn reject"`
}

// IndexRule says of which tags for single platforms the registry makes an index.
type IndexRule struct {
	// Repositories are patterns.
	Repositories []string `yaml:"repositories"`
	// From are patterns of tags, such as {tag}-{arch}. None stands for {arch},
	// {os}-{arch}{variant}, {tag}-{arch} and {tag}-{os}-{arch}{variant}.
	From []string `yaml:"from,omitempty"`
	// Require are platforms, such as linux/arm/v7, without which the tag of the index does not move.
	Require []string `yaml:"require,omitempty"`
	// Within leaves out what was pushed longer ago than that before the newest. Zero leaves out nothing.
	Within time.Duration `yaml:"within,omitempty"`
}

// IndexPatterns are the patterns of an index rule that has none.
func IndexPatterns() []string {
	return []string{"{arch}", "{os}-{arch}{variant}", "{tag}-{arch}", "{tag}-{os}-{arch}{variant}"}
}

// Catalog is about the list of all repositories.
type Catalog struct {
	// MaxEntries is the largest page, at least 1.
	MaxEntries int `yaml:"maxentries"`
}

// notSet stands for a duration that a file did not name: those are never negative.
const notSet = time.Duration(-1)

// Default returns the configuration of a registry without a file and without variables.
func Default() *Config {
	c := defaults()
	c.settle()
	return c
}

// defaults returns what a file may override. What depends on other keys is left to settle.
func defaults() *Config {
	const day = 24 * time.Hour
	return &Config{
		Version: "0.1",
		Log:     Log{Level: "info", Formatter: "text"},
		HTTP:    HTTP{Net: "tcp", DrainTimeout: 30 * time.Second, HTTP2: HTTP2{Disabled: true}, TLS: TLS{Learn: true, MinimumTLS: "tls1.2"}},
		Storage: Storage{
			FileSystem:  FileSystem{MinFree: 256 << 20},
			S3:          S3{Secure: true, ChunkSize: 16 << 20, Memory: 256 << 20, Checksum: "crc32"},
			Delete:      Delete{Enabled: true},
			Maintenance: Maintenance{UploadPurging: UploadPurging{Enabled: true, Age: 7 * day, Interval: day}},
		},
		Metadata:   Metadata{SQLite: SQLite{Backup: Backup{Interval: notSet, Keep: 7}}},
		Auth:       Auth{HTPasswd: HTPasswd{Realm: "Registry"}, Tokens: Tokens{Lifetime: 5 * time.Minute}},
		GC:         GC{Interval: time.Minute, Rate: 1000, Lease: day, Grace: day},
		Trash:      Trash{Retain: 7 * day},
		Retention:  Retention{Interval: time.Hour},
		Validation: Validation{Manifests: ManifestsValidation{Indexes: Indexes{Platforms: "all"}}},
		Catalog:    Catalog{MaxEntries: 1000},
	}
}

// settle fills in the defaults that depend on other keys.
func (c *Config) settle() {
	if c.HTTP.Addr == "" && c.HTTP.Net == "tcp" {
		c.HTTP.Addr = ":5000"
	}
	if c.HTTP.TLS.Mode == "" {
		c.HTTP.TLS.Mode = c.HTTP.TLS.defaultMode()
	}
	if c.Catalog.MaxEntries < 1 {
		c.Catalog.MaxEntries = 1000
	}
	switch backup := &c.Metadata.SQLite.Backup; {
	case c.Metadata.Postgres.DSN != "":
		*backup = Backup{}
	case backup.Interval == notSet && c.Storage.Driver == "s3":
		backup.Interval = 24 * time.Hour
	case backup.Interval == notSet:
		backup.Interval = 0
	}
}

// defaultMode is the mode that the other keys ask for.
func (t TLS) defaultMode() string {
	switch {
	case t.Certificate != "" || t.Key != "":
		return TLSFiles
	case t.LetsEncrypt.given():
		return TLSACME
	}
	return TLSAuto
}

// Write prints the configuration as YAML that Load reads again, except that secrets are masked.
func (c *Config) Write(w io.Writer) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	if err := e.Close(); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return nil
}
