package manifest

import (
	"strings"
	"testing"
	"time"
)

func TestParseConfig(t *testing.T) {
	const base = `{"architecture":"arm","os":"linux","variant":"v7","created":"2024-05-06T07:08:09.5+02:00","rootfs":{"type":"layers"}}`
	whole := Config{OS: "linux", Architecture: "arm", Variant: "v7", Created: time.Date(2024, 5, 6, 5, 8, 9, 500000000, time.UTC)}
	undated := Config{OS: "linux", Architecture: "arm", Variant: "v7"}
	for _, test := range []struct {
		name, body string
		want       Config
		ok         bool
	}{
		{"whole", base, whole, true},
		{"white space", " \n" + base, whole, true},
		{"no variant", strings.Replace(base, `"v7"`, `""`, 1), Config{OS: "linux", Architecture: "arm", Created: whole.Created}, true},
		{"bad time", strings.Replace(base, "2024-", "24-", 1), undated, true},
		{"time is a number", strings.Replace(base, `"2024-05-06T07:08:09.5+02:00"`, `3`, 1), undated, true},
		{"year below one", strings.Replace(base, "2024-05-06T07", "0000-01-01T00", 1), undated, true},
		{"year above 9999", strings.Replace(base, "2024-05-06T07:08:09.5+", "9999-12-31T23:59:59-", 1), undated, true},
		{"no operating system", strings.Replace(base, "linux", "", 1), Config{}, false},
		{"no architecture", strings.Replace(base, `"architecture":"arm",`, "", 1), Config{}, false},
		{"no root file system", strings.Replace(base, "rootfs", "x", 1), Config{}, false},
		{"long architecture", strings.Replace(base, `"arm"`, `"`+strings.Repeat("a", 200)+`"`, 1), Config{}, false},
		{"NUL", strings.Replace(base, `"v7"`, `"v\u0000"`, 1), Config{}, false},
		{"a package's JSON", `{"os":["linux"],"architecture":"arm","rootfs":{}}`, Config{}, false},
		{"cut", base[:40], Config{}, false},
		{"empty object", "{}", Config{}, false},
		{"gzip", "\x1f\x8b\x08", Config{}, false},
		{"nothing", "", Config{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := ParseConfig([]byte(test.body))
			if got != test.want || ok != test.ok {
				t.Errorf("got %+v, %t, want %+v, %t", got, ok, test.want, test.ok)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"architecture":"arm","os":"linux","variant":"v7","created":"2024-05-06T07:08:09Z","rootfs":{}}`))
	f.Add([]byte(`{"created":1e999}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, ok := ParseConfig(body)
		if ok != (c != Config{}) {
			t.Fatalf("got %+v, %t", c, ok)
		}
		if ok && (c.OS == "" || c.Architecture == "" || c.Created.Location() != time.UTC) {
			t.Errorf("got %+v", c)
		}
		if _, err := c.Created.MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}
