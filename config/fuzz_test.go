package config

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", distributionV2, distributionV3, s3File, "a: &a [*a]", "<<: {version: 0.1}", "? [a]\n: b", "version: 0.1\nauth: none",
		"version: 0.1\nhttp: {tls: {hosts: [a, *b]}}", "storage: &s {<<: *s}", "!!set {a}", "---\n---", "version: !x 0.1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, _, err := Parse("r.yml", data, nil)
		checkResult(t, c, err)
	})
}

func FuzzEnvironment(f *testing.F) {
	for _, seed := range []struct{ file, name, value string }{
		{distributionV2, "HTTP_ADDR", ":443"}, {distributionV2, "STORAGE", "s3"}, {"auth: none", "AUTH_HTPASSWD_PATH", "x"},
		{"", "HTTP_TLS_HOSTS_0", "a"}, {"", "AUTH", "{htpasswd: {path: p}}"}, {"", "HTTP", "&a [*a]"}, {"", "__", "x"},
		{"", "AUTH_INITIALPASSWORD_FILE", "x"}, {"", "HTTP_HEADERS_A_0", "\x00"}, {"storage: [a]", "STORAGE", "{s3: }"},
		{"http: {tls: {hosts: a}}", "HTTP_TLS_HOSTS_0", "b"}, {"", "VALIDATION_MANIFESTS_URLS_ALLOW_0", "("},
		{"", "VALIDATION_MANIFESTS_INDEXES_PLATFORMLIST_0", "{os: a}"}, {"", "COMPATIBILITY_SCHEMA1_ENABLED", "true"},
	} {
		f.Add([]byte("version: 0.1\n"+seed.file), seed.name, seed.value, "LOG_LEVEL=debug")
	}
	f.Fuzz(func(t *testing.T, file []byte, name, value, other string) {
		l := newLoader("r.yml", func(path string, _ int64) ([]byte, error) {
			if path == "" {
				return nil, errors.New("no such file")
			}
			return []byte(path + "\n"), nil
		})
		c, _, err := l.load(file, registry([]string{name + "=" + value, other}))
		checkResult(t, c, err)
	})
}

// checkResult: a configuration can be printed and read again, an error has lines.
func checkResult(t *testing.T, c *Config, err error) {
	t.Helper()
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || len(e.Problems) == 0 || c != nil {
			t.Fatalf("got %v and the error %v", c, err)
		}
		return
	}
	var out bytes.Buffer
	if err := c.Write(&out); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Parse("printed.yml", out.Bytes(), nil); err != nil {
		t.Fatalf("%s\ncan't be read again: %v", out.Bytes(), err)
	}
}
