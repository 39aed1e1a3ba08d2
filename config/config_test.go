package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// distributionV2 is a file of the kind that the image of registry:2 comes with.
const distributionV2 = `version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
`

// distributionV3 is a file of the kind that the image of registry:3 comes with.
const distributionV3 = `version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
  tag:
    concurrencylimit: 8
http:
  addr: :5000
  debug:
    addr: :5001
    prometheus:
      enabled: true
      path: /metrics
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
`

const s3File = `version: 0.1
storage:
  s3:
    accesskey: AKIA
    secretkey: hunter2
    region: us-west-1
    bucket: images
  delete:
    enabled: true
`

// parse is Parse with a file that is called r.yml.
func parse(t testing.TB, file string, environ ...string) (*Config, []string, error) {
	t.Helper()
	return Parse("r.yml", []byte(file), environ)
}

func mustParse(t testing.TB, file string, environ ...string) (*Config, []string) {
	t.Helper()
	c, warnings, err := parse(t, file, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return c, warnings
}

func TestDefault(t *testing.T) {
	c, warnings, err := Load("", nil)
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("Load without a file is %+v, not the default", c)
	}
	for name, got := range map[string][2]any{
		"addr":            {c.HTTP.Addr, ":5000"},
		"mode":            {c.HTTP.TLS.Mode, TLSAuto},
		"learn":           {c.HTTP.TLS.Learn, true},
		"http2":           {c.HTTP.HTTP2.Disabled, true},
		"root":            {c.Storage.FileSystem.RootDirectory, ""},
		"driver":          {c.Storage.Driver, ""},
		"minfree":         {c.Storage.FileSystem.MinFree, Size(256 << 20)},
		"delete":          {c.Storage.Delete.Enabled, true},
		"auth":            {c.Auth.Method, AuthInitial},
		"lease":           {c.GC.Lease, 24 * time.Hour},
		"grace":           {c.GC.Grace, 24 * time.Hour},
		"purging":         {c.Storage.Maintenance.UploadPurging.Enabled, true},
		"purging age":     {c.Storage.Maintenance.UploadPurging.Age, 168 * time.Hour},
		"purging between": {c.Storage.Maintenance.UploadPurging.Interval, 24 * time.Hour},
		"level":           {c.Log.MinLevel(), slog.LevelInfo},
		"relative urls":   {c.HTTP.RelativeURLs, (*bool)(nil)},
		"catalog":         {c.Catalog.MaxEntries, 1000},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: got %v, want %v", name, got[0], got[1])
		}
	}
}

func TestFilesOfDistribution(t *testing.T) {
	for name, tt := range map[string]struct {
		file, health, ignored string
		debug                 Debug
	}{
		"registry:2": {distributionV2, "health (r.yml:15)", "storage.cache.blobdescriptor (r.yml:7)", Debug{}},
		"registry:3": {distributionV3, "health (r.yml:22)", "storage.cache.blobdescriptor (r.yml:7), storage.tag (r.yml:11)",
			Debug{Addr: ":5001", Prometheus: Prometheus{Enabled: true, Path: "/metrics"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, warnings := mustParse(t, tt.file)
			if !slices.Equal(warnings, []string{
				tt.health + " has no effect here: GET /health and registry healthcheck say whether the registry can reach its database",
				"these settings have no effect here: " + tt.ignored,
			}) {
				t.Errorf("warnings are %q", warnings)
			}
			want := Default()
			want.Log.Fields = map[string]string{"service": "registry"}
			want.Storage.Driver = "filesystem"
			want.Storage.FileSystem.RootDirectory = "/var/lib/registry"
			want.HTTP.Headers = Headers{"X-Content-Type-Options": {"nosniff"}}
			want.HTTP.Debug = tt.debug
			if !reflect.DeepEqual(c, want) {
				t.Errorf("got %+v\nwant %+v", c, want)
			}
		})
	}
}

func TestEveryKey(t *testing.T) {
	c, warnings := mustParse(t, `version: "0.1"
log: {level: WARN, formatter: logstash, fields: {a: 1, b: two}, accesslog: {disabled: yes}}
http:
  net: tcp
  addr: 127.0.0.1:https
  host: https://registry.example.com
  prefix: /sub/
  relativeurls: false
  draintimeout: 1m30s
  trustedproxies: [10.1.2.3/8, "::1"]
  http2: {disabled: false}
  h2c: {enabled: true}
  tls:
    mode: files
    certificate: c.pem
    key: k.pem
    learn: false
    clientcas: [a.pem, b.pem]
    clientauth: Request-Client-Cert
    minimumtls: tls1.3
    ciphersuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
storage:
  filesystem: {rootdirectory: data, minfree: 1GB}
  delete: {enabled: false}
  redirect: {disable: true}
  maintenance: {uploadpurging: {enabled: false, age: 2h, interval: 1h, dryrun: true}, readonly: {enabled: true}}
metadata: {sqlite: {path: facts.db}}
auth: {htpasswd: {realm: Here, path: users}}
gc: {interval: 5m, rate: 50, lease: 1h, grace: 1s}
validation:
  disabled: true
  manifests:
    urls: {allow: ["^https://a/"], deny: [b]}
    indexes: {platforms: List, platformlist: [{os: linux, architecture: arm64}]}
catalog: {maxentries: 7}
`)
	if !slices.Equal(warnings, []string{"log.formatter (r.yml:2) is logstash, which is written as json"}) {
		t.Errorf("warnings are %q", warnings)
	}
	for name, got := range map[string][2]any{
		"level":     {c.Log.MinLevel(), slog.LevelWarn},
		"fields":    {c.Log.Fields["a"] + c.Log.Fields["b"], "1two"},
		"accesslog": {c.Log.AccessLog.Disabled, true},
		"relative":  {*c.HTTP.RelativeURLs, false},
		"drain":     {c.HTTP.DrainTimeout, 90 * time.Second},
		"proxies":   {fmt.Sprint(c.HTTP.TrustedProxies), "[10.0.0.0/8 ::1/128]"},
		"h2c":       {c.HTTP.H2C.Enabled && !c.HTTP.HTTP2.Disabled, true},
		"tls":       {c.HTTP.TLS.MinimumTLS + c.HTTP.TLS.CipherSuites[0], "tls1.3TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		"learn":     {c.HTTP.TLS.Learn, false},
		"clients":   {fmt.Sprint(c.HTTP.TLS.ClientCAs, c.HTTP.TLS.ClientAuth), "[a.pem b.pem]request-client-cert"},
		"minfree":   {c.Storage.FileSystem.MinFree, Size(1e9)},
		"delete":    {c.Storage.Delete.Enabled, false},
		"purging":   {c.Storage.Maintenance.UploadPurging, UploadPurging{false, 2 * time.Hour, time.Hour, true}},
		"read-only": {c.Storage.Maintenance.ReadOnly.Enabled, true},
		"sqlite":    {c.Metadata.SQLite.Path, "facts.db"},
		"auth":      {c.Auth.Method + c.Auth.HTPasswd.Path + c.Auth.HTPasswd.Realm, "htpasswdusersHere"},
		"gc":        {c.GC, GC{5 * time.Minute, 50, time.Hour, time.Second}},
		"urls":      {fmt.Sprint(c.Validation.Manifests.URLs), "&{[^https://a/] [b]}"},
		"platforms": {c.Validation.Manifests.Indexes.Platforms, "list"},
		"platform":  {c.Validation.Manifests.Indexes.PlatformList[0], Platform{"linux", "arm64"}},
		"catalog":   {c.Catalog.MaxEntries, 7},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: got %v, want %v", name, got[0], got[1])
		}
	}
}

// TestForms reads what may be written in more than one way.
func TestForms(t *testing.T) {
	root := func(c *Config) any { return c.Storage.FileSystem.RootDirectory }
	method := func(c *Config) any { return c.Auth.Method }
	for name, tt := range map[string]struct {
		file string
		get  func(*Config) any
		want any
	}{
		"storage as one word":   {"storage: filesystem", func(c *Config) any { return c.Storage.Driver }, "filesystem"},
		"storage without keys":  {"storage: {filesystem: }", func(c *Config) any { return c.Storage.Driver }, "filesystem"},
		"auth none":             {"auth: none", method, AuthNone},
		"auth none as a key":    {"auth: {none: }", method, AuthNone},
		"auth none with braces": {"auth: {none: {}}", method, AuthNone},
		"auth null":             {"auth:", method, AuthInitial},
		"delete null":           {"storage: {delete: }", func(c *Config) any { return c.Storage.Delete.Enabled }, true},
		"null value":            {"storage: {filesystem: {rootdirectory: ~}}", root, ""},
		"number as a string":    {"storage: {filesystem: {rootdirectory: 007}}", root, "007"},
		"word as a string":      {"storage: {filesystem: {rootdirectory: no}}", root, "no"},
		"alias":                 {"log: {fields: {a: &x /d}}\nstorage: {filesystem: {rootdirectory: *x}}", root, "/d"},
		"merge": {"storage: {filesystem: &f {minfree: 1MB, rootdirectory: /a}}\nlog:\n  fields: {<<: *f, minfree: mine}",
			func(c *Config) any { return c.Log.Fields["minfree"] + c.Log.Fields["rootdirectory"] }, "mine/a"},
		"old log level":       {"loglevel: debug", func(c *Config) any { return c.Log.Level + c.LogLevel }, "debug"},
		"both log levels":     {"loglevel: debug\nlog: {level: error}", func(c *Config) any { return c.Log.Level }, "error"},
		"empty address":       {"http: {addr: ''}", func(c *Config) any { return c.HTTP.Addr }, ":5000"},
		"unix socket":         {"http: {net: unix, addr: /run/r.sock}", func(c *Config) any { return c.HTTP.Addr }, "/run/r.sock"},
		"negative catalog":    {"catalog: {maxentries: -1}", func(c *Config) any { return c.Catalog.MaxEntries }, 1000},
		"certificate and key": {"http: {tls: {certificate: c, key: k}}", func(c *Config) any { return c.HTTP.TLS.Mode }, TLSFiles},
		"tls off":             {"http: {tls: {mode: off}}", func(c *Config) any { return c.HTTP.TLS.Mode }, TLSOff},
		"empty letsencrypt": {"http: {tls: {letsencrypt: {cachefile: '', email: '', hosts: []}}}",
			func(c *Config) any { return c.HTTP.TLS.Mode }, TLSAuto},
		"letsencrypt": {file: "http: {tls: {letsencrypt: {cachefile: /c, email: a@b.example, hosts: [a.example], directoryurl: 'https://a.example/dir'}}}",
			get: func(c *Config) any { return fmt.Sprint(c.HTTP.TLS.Mode, c.HTTP.TLS.LetsEncrypt) }, want: "acme{/c a@b.example [a.example] https://a.example/dir}"},
		"own CA": {file: "http: {tls: {auto: {directory: d, certificate: c, key: k}}}",
			get: func(c *Config) any { return fmt.Sprint(c.HTTP.TLS.Mode, c.HTTP.TLS.Auto) }, want: "auto{d c k}"},
		"disk cache": {file: "storage: {s3: {bucket: a, region: b}, redirect: {disable: true}, cache: {blobdescriptor: '', disk: {directory: d, size: 20GiB}}}",
			get: func(c *Config) any { return c.Storage.Cache.Disk }, want: DiskCache{Directory: "d", Size: 20 << 30}},
		"schema 1 off":           {"compatibility: {schema1: {enabled: false}}", method, AuthInitial},
		"empty proxy":            {"proxy: {remoteurl: '', ttl: 168h}", method, AuthInitial},
		"FIPS":                   {"storage: {s3: {bucket: a, region: b, usefipsendpoint: true}}", func(c *Config) any { return c.Storage.S3.UseFIPSEndpoint }, true},
		"middleware that is off": {"middleware: {storage: [{name: redirect, disabled: true, options: {baseurl: a}}]}", method, AuthInitial},
		"endpoint that is off":   {"notifications: {events: {includereferences: true}, endpoints: [{name: a, disabled: true, url: b}]}", method, AuthInitial},
		"crlf":                   {"storage:\r\n  filesystem:\r\n    rootdirectory: /d\r\n", root, "/d"},
	} {
		t.Run(name, func(t *testing.T) {
			c, warnings := mustParse(t, "version: 0.1\n"+tt.file)
			if got := tt.get(c); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if len(warnings) != 0 {
				t.Errorf("warnings are %q", warnings)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(distributionV2), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(path, []string{"REGISTRY_HTTP_ADDR=:443"})
	if err != nil || c.HTTP.Addr != ":443" || c.Storage.FileSystem.RootDirectory != "/var/lib/registry" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, _, err := Load(filepath.Join(dir, "absent"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file is %v", err)
	}
	if _, _, err := Load(dir, nil); err == nil {
		t.Error("a directory is no error")
	}
	empty, large := filepath.Join(dir, "empty"), filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(large, make([]byte, maxFile+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(empty, nil); err == nil || !strings.Contains(err.Error(), "version: is missing") {
		t.Errorf("an empty file is %v", err)
	}
	if _, _, err := Load(large, nil); err == nil || !strings.Contains(err.Error(), "larger than 1MiB") {
		t.Errorf("a large file is %v", err)
	}
}

func TestSecretsStayMasked(t *testing.T) {
	const secret = "correct horse"
	c, _ := mustParse(t, "version: 0.1\nauth: {initialpassword: "+secret+"}")
	if string(c.Auth.InitialPassword) != secret {
		t.Fatalf("the password is %q", string(c.Auth.InitialPassword))
	}
	var out, log bytes.Buffer
	if err := c.Write(&out); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(&log, nil)).Info("configuration", "config", c, "password", c.Auth.InitialPassword)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"Write":    out.String(),
		"slog":     log.String(),
		"json":     string(encoded),
		"String":   c.Auth.InitialPassword.String(),
		"GoString": c.Auth.InitialPassword.GoString(),
		"verbs":    fmt.Sprintf("%v %+v %#v", *c, *c, *c),
		"password": fmt.Sprintf("%s %q %x %d %v %#v", c.Auth.InitialPassword, c.Auth.InitialPassword, c.Auth.InitialPassword, c.Auth.InitialPassword, c.Auth.InitialPassword, c.Auth.InitialPassword),
	} {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s shows the secret: %s", name, text)
		}
		if !strings.Contains(text, mask) {
			t.Errorf("%s does not show the mask: %s", name, text)
		}
	}
}

// TestWriteReadsBack: what is printed is what is in effect.
func TestWriteReadsBack(t *testing.T) {
	for name, file := range map[string]string{
		"default":    "",
		"registry:2": distributionV2,
		"none":       "version: 0.1\nauth: none\nhttp: {tls: {mode: off}, relativeurls: true}",
		"acme":       "version: 0.1\nhttp: {tls: {letsencrypt: {hosts: [a.example]}, clientcas: [c.pem]}}",
		"own CA":     "version: 0.1\nhttp: {tls: {auto: {certificate: c, key: k}, learn: false}}",
		"htpasswd":   "version: 0.1\nauth: {htpasswd: {path: p}}\nhttp: {trustedproxies: [10.0.0.1]}\nstorage: filesystem",
		"no URLs":    "version: 0.1\nvalidation: {manifests: {urls: {}}}",
		"lists":      "version: 0.1\nvalidation: {manifests: {urls: {allow: [a+]}, indexes: {platforms: list, platformlist: [{os: a}]}}}",
	} {
		t.Run(name, func(t *testing.T) {
			c := Default()
			if file != "" {
				c, _ = mustParse(t, file)
			}
			var out bytes.Buffer
			if err := c.Write(&out); err != nil {
				t.Fatal(err)
			}
			again, warnings := mustParse(t, out.String())
			// A printed configuration names its driver.
			c.Storage.Driver = "filesystem"
			if !reflect.DeepEqual(again, c) || len(warnings) != 0 {
				t.Errorf("%s\nreads back as %+v\nnot %+v\n%q", out.String(), again, c, warnings)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1000": 1000, "1B": 1, "2kB": 2000, "2KB": 2000, "2KiB": 2048, "256MiB": 256 << 20, "256 mib": 256 << 20,
		"1GB": 1e9, "3GiB": 3 << 30, "1TB": 1e12, "1TiB": 1 << 40, "9223372036854775807": 1<<63 - 1,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s is %d, %v; want %d", text, s, err, want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s, printed as %s, is %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "B", "MiB", "-1", "+1", "1.5GB", "1 000", "1X", "9223372036854775808", "9000000TiB", "0x10"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, s)
		}
	}
}
