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
