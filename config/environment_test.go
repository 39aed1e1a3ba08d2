package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEnvironment(t *testing.T) {
	for name, tt := range map[string]struct {
		file    string
		environ []string
		get     func(*Config) any
		want    any
	}{
		"string":          {environ: []string{"HTTP_ADDR=:443"}, get: func(c *Config) any { return c.HTTP.Addr }, want: ":443"},
		"any case":        {environ: []string{"Http_addr=:443"}, get: func(c *Config) any { return c.HTTP.Addr }, want: ":443"},
		"over the file":   {file: "http: {addr: ':80'}", environ: []string{"HTTP_ADDR=:443"}, get: func(c *Config) any { return c.HTTP.Addr }, want: ":443"},
		"over a null":     {file: "http:", environ: []string{"HTTP_ADDR=:443"}, get: func(c *Config) any { return c.HTTP.Addr }, want: ":443"},
		"boolean":         {environ: []string{"STORAGE_DELETE_ENABLED=false"}, get: func(c *Config) any { return c.Storage.Delete.Enabled }, want: false},
		"quoted boolean":  {environ: []string{`STORAGE_DELETE_ENABLED="false"`}, get: func(c *Config) any { return c.Storage.Delete.Enabled }, want: false},
		"pointer":         {environ: []string{"HTTP_RELATIVEURLS=true"}, get: func(c *Config) any { return *c.HTTP.RelativeURLs }, want: true},
		"duration":        {environ: []string{"GC_LEASE= 2h "}, get: func(c *Config) any { return c.GC.Lease }, want: 2 * time.Hour},
		"size":            {environ: []string{"STORAGE_FILESYSTEM_MINFREE=1GiB"}, get: func(c *Config) any { return c.Storage.FileSystem.MinFree }, want: Size(1 << 30)},
		"one of a few":    {environ: []string{"LOG_LEVEL=DEBUG"}, get: func(c *Config) any { return c.Log.Level }, want: "debug"},
		"old log level":   {environ: []string{"LOGLEVEL=error"}, get: func(c *Config) any { return c.Log.Level }, want: "error"},
		"list by index":   {file: "http: {tls: {hosts: [a, b]}}", environ: []string{"HTTP_TLS_HOSTS_1=c", "HTTP_TLS_HOSTS_2=d"}, get: func(c *Config) any { return fmt.Sprint(c.HTTP.TLS.Hosts) }, want: "[a c d]"},
		"list of eleven":  {environ: eleven("HTTP_TLS_HOSTS"), get: func(c *Config) any { return len(c.HTTP.TLS.Hosts) }, want: 11},
		"whole list":      {file: "http: {tls: {hosts: [a, b]}}", environ: []string{"HTTP_TLS_HOSTS=[c]"}, get: func(c *Config) any { return fmt.Sprint(c.HTTP.TLS.Hosts) }, want: "[c]"},
		"list and index":  {environ: []string{"HTTP_TLS_HOSTS_0=x", "HTTP_TLS_HOSTS=[c, d]"}, get: func(c *Config) any { return fmt.Sprint(c.HTTP.TLS.Hosts) }, want: "[x d]"},
		"list of structs": {environ: []string{"VALIDATION_MANIFESTS_INDEXES_PLATFORMLIST_0_OS=linux"}, get: func(c *Config) any { return c.Validation.Manifests.Indexes.PlatformList[0].OS }, want: "linux"},
		"field":           {environ: []string{"LOG_FIELDS_SERVICE=a"}, get: func(c *Config) any { return c.Log.Fields["service"] }, want: "a"},
		"field of two":    {environ: []string{"LOG_FIELDS_MY_FIELD=a"}, get: func(c *Config) any { return c.Log.Fields["my_field"] }, want: "a"},
		"known field":     {file: "log: {fields: {Service: a}}", environ: []string{"LOG_FIELDS_SERVICE=b"}, get: func(c *Config) any { return fmt.Sprint(c.Log.Fields) }, want: "map[Service:b]"},
		"header":          {environ: []string{"HTTP_HEADERS_X-Frame-Options=[deny, 1]"}, get: func(c *Config) any { return fmt.Sprint(c.HTTP.Headers) }, want: "map[x-frame-options:[deny 1]]"},
		"header by index": {environ: []string{"HTTP_HEADERS_X_FRAME_OPTIONS_0=deny"}, get: func(c *Config) any { return fmt.Sprint(c.HTTP.Headers) }, want: "map[x-frame-options:[deny]]"},
		"whole map":       {environ: []string{"HTTP_HEADERS={A: [b]}"}, get: func(c *Config) any { return fmt.Sprint(c.HTTP.Headers) }, want: "map[A:[b]]"},
		"whole section":   {environ: []string{"CATALOG={maxentries: 5}"}, get: func(c *Config) any { return c.Catalog.MaxEntries }, want: 5},
		"empty string":    {file: "http: {tls: {certificate: c, key: k}}", environ: []string{"HTTP_TLS_CERTIFICATE=", "HTTP_TLS_KEY="}, get: func(c *Config) any { return c.HTTP.TLS.Mode }, want: TLSAuto},
		"empty value":     {file: "gc: {lease: 1h}", environ: []string{"GC_LEASE=", "LOG_LEVEL=", "STORAGE=", "AUTH= ", "HTTP_TLS_HOSTS="}, get: func(c *Config) any { return c.GC.Lease }, want: time.Hour},
		"the usual TLS":   {environ: []string{"HTTP_TLS_CERTIFICATE=/certs/domain.crt", "HTTP_TLS_KEY=/certs/domain.key"}, get: func(c *Config) any { return c.HTTP.TLS.Mode + c.HTTP.TLS.Key }, want: "files/certs/domain.key"},
		"TLS off":         {environ: []string{"HTTP_TLS_MODE=off"}, get: func(c *Config) any { return c.HTTP.TLS.Mode }, want: TLSOff},
		"the usual auth": {environ: []string{"AUTH=htpasswd", "AUTH_HTPASSWD_REALM=Registry Realm", "AUTH_HTPASSWD_PATH=/auth/htpasswd"},
			get: func(c *Config) any { return c.Auth.Method + c.Auth.HTPasswd.Realm + c.Auth.HTPasswd.Path }, want: "htpasswdRegistry Realm/auth/htpasswd"},
		"auth by its keys": {environ: []string{"AUTH_HTPASSWD_PATH=/p"}, get: func(c *Config) any { return c.Auth.Method }, want: AuthHTPasswd},
		"auth as YAML":     {environ: []string{"AUTH={htpasswd: {realm: localhost, path: /p}}"}, get: func(c *Config) any { return c.Auth.Method + c.Auth.HTPasswd.Path }, want: "htpasswd/p"},
		"access rules":     {environ: []string{"ACCESS_0_REPOSITORIES_0=**", "ACCESS_0_ANONYMOUS_0=pull"}, get: func(c *Config) any { return c.Access[0].Repositories[0] + c.Access[0].Anonymous[0] }, want: "**pull"},
		"access as YAML":   {environ: []string{"ACCESS=[{repositories: [a], users: [b], actions: [push]}]"}, get: func(c *Config) any { return c.Access[0].Users[0] + c.Access[0].Actions[0] }, want: "bpush"},
		"token server":     {environ: []string{"AUTH=token", "AUTH_TOKEN_REALM=https://a/t", "AUTH_TOKEN_SERVICE=s", "AUTH_TOKEN_ISSUER=i", "AUTH_TOKEN_ROOTCERTBUNDLE=/r"}, get: func(c *Config) any { return c.Auth.Method + c.Auth.Token.RootCertBundle }, want: "token/r"},
		"auth none":        {file: "auth: {htpasswd: {path: /p}}", environ: []string{"AUTH=none"}, get: func(c *Config) any { return c.Auth.Method + c.Auth.HTPasswd.Path }, want: AuthNone},
		"auth replaced":    {file: "auth: {token: {realm: a}}", environ: []string{"AUTH={htpasswd: {path: /p}}"}, get: func(c *Config) any { return c.Auth.Method }, want: AuthHTPasswd},
		"auth kept":        {file: "auth: {htpasswd: {path: /p}}", environ: []string{"AUTH=htpasswd"}, get: func(c *Config) any { return c.Auth.HTPasswd.Path }, want: "/p"},
		"auth after none":  {file: "auth: none", environ: []string{"AUTH=htpasswd", "AUTH_HTPASSWD_PATH=/p"}, get: func(c *Config) any { return c.Auth.Method }, want: AuthHTPasswd},
		"storage kept": {file: "storage: {delete: {enabled: false}, filesystem: {rootdirectory: /d}}", environ: []string{"STORAGE=filesystem"},
			get: func(c *Config) any { return fmt.Sprint(c.Storage.Delete.Enabled, c.Storage.FileSystem.RootDirectory) }, want: "false/d"},
		"storage selected": {file: s3File[len("version: 0.1\n"):], environ: []string{"STORAGE=filesystem", "STORAGE_DELETE_ENABLED=false"},
			get: func(c *Config) any { return fmt.Sprint(c.Storage.Driver, c.Storage.Delete.Enabled) }, want: "filesystemfalse"},
		"storage word and key": {file: "storage: filesystem", environ: []string{"STORAGE_FILESYSTEM_ROOTDIRECTORY=/d"}, get: func(c *Config) any { return c.Storage.FileSystem.RootDirectory }, want: "/d"},
		"quoted string":        {environ: []string{`STORAGE_FILESYSTEM_ROOTDIRECTORY="/d"`}, get: func(c *Config) any { return c.Storage.FileSystem.RootDirectory }, want: "/d"},
		"number":               {environ: []string{"AUTH_INITIALPASSWORD=0123"}, get: func(c *Config) any { return string(c.Auth.InitialPassword) }, want: "0123"},
		"boolean as a string":  {environ: []string{"AUTH_INITIALPASSWORD=no"}, get: func(c *Config) any { return string(c.Auth.InitialPassword) }, want: "no"},
		"comment":              {environ: []string{"AUTH_INITIALPASSWORD=#x: {"}, get: func(c *Config) any { return string(c.Auth.InitialPassword) }, want: "#x: {"},
		"spaces and quotes":    {environ: []string{`AUTH_INITIALPASSWORD=" a"`}, get: func(c *Config) any { return string(c.Auth.InitialPassword) }, want: `" a"`},
		"null as a string":     {environ: []string{"STORAGE_FILESYSTEM_ROOTDIRECTORY=~"}, get: func(c *Config) any { return c.Storage.FileSystem.RootDirectory }, want: "~"},
	} {
		t.Run(name, func(t *testing.T) {
			c, warnings := mustParse(t, "version: 0.1\n"+tt.file, registry(tt.environ)...)
			if got := tt.get(c); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if len(warnings) != 0 {
				t.Errorf("warnings are %q", warnings)
			}
		})
	}
}

// registry puts the prefix before every variable.
func registry(environ []string) []string {
	var all []string
	for _, v := range environ {
		all = append(all, prefix+v)
	}
	return all
}

// eleven sets eleven items of a list, the last of which sorts before the third as text.
func eleven(name string) []string {
	var all []string
	for i := 10; i >= 0; i-- {
		all = append(all, fmt.Sprintf("%s_%d=h%d", name, i, i))
	}
	return all
}

func TestEnvironmentProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		file    string
		environ []string
		want    string
	}{
		"bad value":        {environ: []string{"GC_GRACE=1"}, want: "REGISTRY_GC_GRACE: gc.grace: must be a duration"},
		"bad address":      {environ: []string{"HTTP_ADDR=x"}, want: "REGISTRY_HTTP_ADDR: http.addr: must be HOST:PORT"},
		"unknown in YAML":  {environ: []string{"HTTP={adr: x}"}, want: "REGISTRY_HTTP: http.adr: unknown key; the nearest known one is http.addr"},
		"twice in YAML":    {environ: []string{"HTTP={addr: ':1', addr: ':2'}"}, want: "REGISTRY_HTTP: http.addr: is there twice"},
		"list gap":         {environ: []string{"HTTP_TLS_HOSTS_7=a"}, want: "REGISTRY_HTTP_TLS_HOSTS_7: http.tls.hosts: has 0 items: the next index is 0, not 7"},
		"huge index":       {environ: []string{"HTTP_TLS_HOSTS_2000000000=a"}, want: "the next index is 0, not 2000000000"},
		"list as a word":   {environ: []string{"HTTP_TLS_HOSTS=a,b"}, want: "REGISTRY_HTTP_TLS_HOSTS: http.tls.hosts: must be a list such as [a, b]"},
		"list, not YAML":   {environ: []string{"HTTP_TLS_HOSTS=[a"}, want: "REGISTRY_HTTP_TLS_HOSTS: http.tls.hosts: not valid YAML"},
		"header as a word": {environ: []string{"HTTP_HEADERS_A=b"}, want: "REGISTRY_HTTP_HEADERS_A: http.headers.a: must be a list"},
		"unknown method":   {environ: []string{"AUTH=ldap"}, want: "REGISTRY_AUTH: auth: must be one of htpasswd, token, none"},
		"unknown driver":   {environ: []string{"STORAGE=floppy"}, want: "REGISTRY_STORAGE: storage: must be one of filesystem"},
		"driver as a list": {environ: []string{"STORAGE=[a]"}, want: "REGISTRY_STORAGE: storage: must be one of filesystem"},
		"two drivers": {file: "storage: {filesystem: {rootdirectory: /d}}", environ: []string{"STORAGE_S3_BUCKET=a"},
			want: "REGISTRY_STORAGE_S3_BUCKET: storage: only one of filesystem (r.yml:2), s3 (REGISTRY_STORAGE_S3_BUCKET) can be used; remove the others or set REGISTRY_STORAGE to the one that you want"},
		"two methods in one": {environ: []string{"AUTH={none: , htpasswd: {path: p}}"}, want: "REGISTRY_AUTH: auth: only one of none (REGISTRY_AUTH), htpasswd (REGISTRY_AUTH) can be used"},
		"proxy":              {environ: []string{"PROXY_REMOTEURL=https://registry-1.docker.io"}, want: "REGISTRY_PROXY_REMOTEURL: proxy: this version does not have it"},
		"secret of a proxy":  {environ: []string{"PROXY_PASSWORD_FILE=/x", "PROXY_REMOTEURL=https://a"}, want: "REGISTRY_PROXY_REMOTEURL: proxy: this version does not have it"},
		"list of rules":      {environ: []string{"MIDDLEWARE_STORAGE_0_NAME=a"}, want: "REGISTRY_MIDDLEWARE_STORAGE_0_NAME: middleware: this version does not have it"},
		"acme":               {environ: []string{"HTTP_TLS_MODE=acme"}, want: "REGISTRY_HTTP_TLS_MODE: http.tls.letsencrypt.hosts: is missing"},
		"list in the way":    {file: "http: [a]", environ: []string{"HTTP_ADDR=:1", "HTTP_TLS_HOSTS_0=a"}, want: "r.yml:2: http: must be a section, not a list"},
		"map in the way":     {file: "http: {tls: {hosts: {a: b}}}", environ: []string{"HTTP_TLS_HOSTS_0=a"}, want: "r.yml:2: http.tls.hosts: must be a list"},
		"auth in the way":    {file: "auth: [a]", environ: []string{"AUTH=none"}, want: "auth: must be one of htpasswd, token, none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(t, "version: 0.1\n"+tt.file, registry(tt.environ)...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestForeignVariables: variables of other programs do no harm, misspelt ones are named with what they were to be.
func TestForeignVariables(t *testing.T) {
	const foreign = "these variables begin with REGISTRY_ but set nothing here: "
	const ignored = "these settings have no effect here: "
	for name, tt := range map[string]struct {
		file    string
		environ []string
		want    string
	}{
		"podman": {environ: []string{"AUTH_FILE=/a"}, want: foreign + "REGISTRY_AUTH_FILE"},
		"Kubernetes": {environ: []string{"PORT=tcp://10.0.0.1:5000", "PORT_5000_TCP=tcp://10.0.0.1:5000", "PORT_5000_TCP_ADDR=10.0.0.1", "SERVICE_HOST=10.0.0.1", "SERVICE_PORT=5000"},
			want: foreign + "REGISTRY_PORT, REGISTRY_PORT_5000_TCP, REGISTRY_PORT_5000_TCP_ADDR, REGISTRY_SERVICE_HOST, REGISTRY_SERVICE_PORT"},
		"Kubernetes, proxy":   {environ: []string{"PROXY_PORT=tcp://10.0.0.1:80", "PROXY_SERVICE_HOST=10.0.0.1"}, want: foreign + "REGISTRY_PROXY_PORT, REGISTRY_PROXY_SERVICE_HOST"},
		"version":             {environ: []string{"VERSION=2.8.3"}, want: foreign + "REGISTRY_VERSION"},
		"a CI's token":        {environ: []string{"ACCESS_TOKEN=x"}, want: foreign + "REGISTRY_ACCESS_TOKEN"},
		"a log file":          {environ: []string{"LOG=/var/log/x"}, want: foreign + "REGISTRY_LOG"},
		"a URL":               {environ: []string{"HTTP=http://a:5000"}, want: foreign + "REGISTRY_HTTP"},
		"only the prefix":     {environ: []string{"=x", "_=y", "LOG_FIELDS_=z"}, want: foreign + "REGISTRY_, REGISTRY__, REGISTRY_LOG_FIELDS_ (did you mean REGISTRY_LOG_FIELDS?)"},
		"below a string":      {environ: []string{"HTTP_ADDR_X=x"}, want: foreign + "REGISTRY_HTTP_ADDR_X (did you mean REGISTRY_HTTP_ADDR?)"},
		"missing letter":      {environ: []string{"HTTP_TLS_CERTIFICAT=x"}, want: foreign + "REGISTRY_HTTP_TLS_CERTIFICAT (did you mean REGISTRY_HTTP_TLS_CERTIFICATE?)"},
		"swapped letters":     {environ: []string{"HTPT_ADDR=x"}, want: foreign + "REGISTRY_HTPT_ADDR (did you mean REGISTRY_HTTP_ADDR?)"},
		"missing name":        {environ: []string{"STORAGE_ROOTDIRECTORY=x"}, want: foreign + "REGISTRY_STORAGE_ROOTDIRECTORY (did you mean REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY?)"},
		"file of no secret":   {environ: []string{"HTTP_TLS_KEY_FILE=x"}, want: foreign + "REGISTRY_HTTP_TLS_KEY_FILE (did you mean REGISTRY_HTTP_TLS_KEY?)"},
		"no index":            {environ: []string{"HTTP_TLS_HOSTS_A=x"}, want: foreign + "REGISTRY_HTTP_TLS_HOSTS_A (did you mean REGISTRY_HTTP_TLS_HOSTS?)"},
		"prefix in lowercase": {environ: []string{}, want: ""},
		"ignored":             {environ: []string{"HTTP_SECRET=x", "STORAGE_CACHE_BLOBDESCRIPTOR=inmemory"}, want: ignored + "http.secret (REGISTRY_HTTP_SECRET), storage.cache.blobdescriptor (REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR)"},
		"ignored twice":       {file: "redis: {addr: a}", environ: []string{"REDIS_DB=1"}, want: ignored + "redis (r.yml:2)"},
		"ruled out":           {environ: []string{"AUTH=none", "AUTH_HTPASSWD_PATH=x", "AUTH_TOKEN_REALM=y"}, want: ignored + "REGISTRY_AUTH_HTPASSWD_PATH, REGISTRY_AUTH_TOKEN_REALM"},
		"half a proxy":        {environ: []string{"PROXY_TTL=168h", "PROXY_PASSWORD_FILE=/x"}, want: ignored + "REGISTRY_PROXY_PASSWORD_FILE, REGISTRY_PROXY_TTL"},
		"notifications": {file: "notifications: {events: {includereferences: true}}", environ: []string{"NOTIFICATIONS_ENDPOINTS_0_URL=x"},
			want: "notifications (REGISTRY_NOTIFICATIONS_ENDPOINTS_0_URL) has no effect here: this version sends none; audit.output records pushes and deletes"},
		"switched off":     {environ: []string{"COMPATIBILITY_SCHEMA1_ENABLED=false", "PROXY_REMOTEURL="}, want: ""},
		"path of the file": {environ: []string{"CONFIGURATION_PATH=/etc/r.yml"}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings := mustParse(t, "version: 0.1\n"+tt.file, append(registry(tt.environ), "registry_x=1", "HOME=/", "NOVALUE")...)
			if got := strings.Join(warnings, "\n"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const key = "REGISTRY_AUTH_INITIALPASSWORD"
	for name, tt := range map[string]struct {
		environ []string
		want    string
		problem string
	}{
		"one newline":  {environ: []string{key + "_FILE=" + file("a", "secret\n")}, want: "secret"},
		"two newlines": {environ: []string{key + "_FILE=" + file("b", "secret\n\n")}, want: "secret\n"},
		"windows":      {environ: []string{key + "_FILE=" + file("c", "secret\r\n")}, want: "secret"},
		"no newline":   {environ: []string{key + "_FILE=" + file("d", " #secret")}, want: " #secret"},
		"empty name":   {environ: []string{key + "_FILE=", key + "=x"}, want: "x"},
		"empty value":  {environ: []string{key + "_FILE=" + file("e", "y"), key + "="}, want: "y"},
		"both":         {environ: []string{key + "_FILE=" + file("f", "y"), key + "=x"}, problem: key + "_FILE: auth.initialpassword: " + key + " sets it too; keep one of the two"},
		"absent":       {environ: []string{key + "_FILE=" + filepath.Join(dir, "absent")}, problem: key + "_FILE: auth.initialpassword: can't read the file that holds it: open"},
		"too large":    {environ: []string{key + "_FILE=" + file("g", strings.Repeat("x", maxSecret+1))}, problem: "larger than 64KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			// The file's value is overridden, not a conflict.
			c, _, err := parse(t, "version: 0.1\nauth: {initialpassword: old}", tt.environ...)
			if tt.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tt.problem) {
					t.Errorf("got  %v\nwant %s", err, tt.problem)
				}
				return
			}
			if err != nil || string(c.Auth.InitialPassword) != tt.want {
				t.Errorf("got %+v, %v; want %q", c, err, tt.want)
			}
		})
	}
}
