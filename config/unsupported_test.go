package config

import (
	"maps"
	"reflect"
	"strings"
	"testing"
)

// TestTable keeps the table of unsupported keys honest: no row repeats or hides a key of the schema or another row, and
// refused rows say what to do.
func TestTable(t *testing.T) {
	schema := make(map[string]bool)
	for _, key := range knownKeys(reflect.TypeFor[Config](), "", nil) {
		schema[key] = true
	}
	seen := make(map[string]bool)
	for _, r := range unsupported() {
		if schema[r.key] {
			t.Errorf("%s is also in the schema", r.key)
		}
		if seen[r.key] {
			t.Errorf("%s is there twice", r.key)
		}
		if r.refused && r.note == "" {
			t.Errorf("%s: a refused row needs a note", r.key)
		}
		seen[r.key] = true
	}
	for key := range maps.Keys(seen) {
		for other := range maps.Keys(seen) {
			if strings.HasPrefix(key, other+".") {
				t.Errorf("%s is hidden by %s", key, other)
			}
		}
	}
}

func TestUnsupported(t *testing.T) {
	for name, tt := range map[string]struct{ file, problem, warning string }{
		"s3 by another name": {file: "storage: {s3aws: {bucket: a}}", problem: "r.yml:2: storage.s3aws: this version does not have it: call the section s3"},
		"azure by name": {file: "storage: azure", problem: "r.yml:2: storage.azure: this version does not have it: use storage.s3 or storage.filesystem, " +
			"and copy the images from the old registry with registry import"},
		"in memory": {file: "storage: {inmemory: }", problem: "r.yml:2: storage.inmemory: this version does not have it: use storage.filesystem on a tmpfs"},
		"proxy": {file: "proxy:\n  remoteurl: https://registry-1.docker.io\n  ttl: 168h",
			problem: "r.yml:3: proxy: this version does not have it: remove it; run a pull-through mirror as a registry:3 of its own"},
		"classes": {file: "policy: {repository: {classes: [image]}}", problem: "r.yml:2: policy.repository: this version does not have it: remove it"},
		"middleware": {file: "middleware: {storage: [{name: cloudfront, disabled: true}, {name: redirect}]}",
			problem: "r.yml:2: middleware: this version does not have it: remove it; what clients need to reach the bucket by another name is storage.redirect.endpoint"},
		"redirects of S3": {file: "storage: {s3: {bucket: a, region: b, redirectendpoint: 'https://c'}}",
			problem: "r.yml:2: storage.s3.redirectendpoint: this version does not have it: use storage.redirect.endpoint"},
		"FIPS elsewhere": {file: "storage: {s3: {bucket: a, regionendpoint: b, usefipsendpoint: true}}",
			problem: "r.yml:2: storage.s3.usefipsendpoint: can't be used with storage.s3.regionendpoint"},
		"FIPS by another name": {file: "storage: {s3: {bucket: a, region: b, usefipsendpoint: true}, redirect: {endpoint: c}}",
			problem: "r.yml:2: storage.redirect.endpoint: can't be used with storage.s3.usedualstack, storage.s3.usefipsendpoint"},
		"schema 1": {file: "compatibility: {schema1: {enabled: true}}", problem: "r.yml:2: compatibility.schema1.enabled: this version does not have it"},
		"ignored": {file: "redis: {addr: a:1}\nnotifications: {endpoints: [{name: a, disabled: true}, {name: b}]}\nhttp: {secret: b}\ntags: {maxtags: 5}",
			warning: "notifications (r.yml:3) has no effect here: this version sends none; audit.output records pushes and deletes\n" +
				"tags (r.yml:5) has no effect here: an answer lists at most 10000 tags\n" +
				"these settings have no effect here: redis (r.yml:2), http.secret (r.yml:4)"},
		"unused files": {file: "http: {tls: {mode: off, certificate: a, key: b, hosts: [c]}}", warning: "these settings have no effect here: http.tls.certificate (r.yml:2), http.tls.key (r.yml:2), http.tls.hosts (r.yml:2)"},
		"unused names": {file: "http: {tls: {mode: off, learn: false, auto: {certificate: a, key: b}, letsencrypt: {email: a}}}",
			warning: "these settings have no effect here: http.tls.letsencrypt (r.yml:2), http.tls.auto (r.yml:2)"},
		"unused cache of descriptors": {file: "storage: {cache: {blobdescriptor: redis, blobdescriptorsize: 1}}",
			warning: "these settings have no effect here: storage.cache.blobdescriptor (r.yml:2), storage.cache.blobdescriptorsize (r.yml:2)"},
		"cache beside files": {file: "storage: {filesystem: , cache: {disk: {directory: d}}}",
			warning: "these settings have no effect here: storage.cache.disk (r.yml:2)"},
		"cache that nobody reads": {file: "storage: {s3: {bucket: a, region: b}, cache: {disk: {directory: d, size: 1GiB}}}",
			warning: "these settings have no effect here: storage.cache.disk without storage.redirect.disable (r.yml:2)"},
		"unused groups": {file: "groups: {a: [b]}", warning: "these settings have no effect here: groups (r.yml:2)"},
		"unused tokens": {file: "auth: {none: , tokens: {refresh: true}}",
			warning: "these settings have no effect here: auth.tokens (r.yml:2)"},
		"unused password": {file: "auth: {none: , initialpassword: a}",
			warning: "these settings have no effect here: auth.initialpassword (r.yml:2)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := parse(t, "version: 0.1\n"+tt.file)
			if tt.problem == "" && err != nil || tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)) {
				t.Errorf("got  %v\nwant %s", err, tt.problem)
			}
			if strings.Join(warnings, "\n") != tt.warning {
				t.Errorf("warnings are %q", warnings)
			}
		})
	}
}
