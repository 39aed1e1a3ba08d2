package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestProblems checks whole messages: they are what a person has.
func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"unknown section":   {"htpp: {}", "2: htpp: unknown key; the nearest known one is http"},
		"unknown key":       {"http:\n  adr: :80", "3: http.adr: unknown key; the nearest known one is http.addr"},
		"key in wrong case": {"http: {Addr: x}", "2: http.Addr: unknown key; the nearest known one is http.addr"},
		"key one level up": {"http: {certificate: x}",
			"2: http.certificate: unknown key; the nearest known one is http.tls.certificate"},
		"driver's key in storage": {"storage: {rootdirectory: /d}",
			"2: storage.rootdirectory: unknown key; the nearest known one is storage.filesystem.rootdirectory"},
		"unknown key in a list": {"validation: {manifests: {indexes: {platformlist: [{os: a, arch: b}]}}}",
			"2: validation.manifests.indexes.platformlist.0.arch: unknown key; the nearest known one is " +
				"validation.manifests.indexes.platformlist.0.os"},
		"unknown key of URLs": {"validation: {manifests: {urls: {alow: [a]}}}",
			"2: validation.manifests.urls.alow: unknown key; the nearest known one is validation.manifests.urls.allow"},
		"unknown key beside a row": {"compatibility: {schema2: {}}",
			"2: compatibility.schema2: unknown key; the nearest known one is compatibility.schema1"},
		"the choice's field":  {"auth: {'-': x}", "2: auth.-: unknown key; the nearest known one is auth.none"},
		"duplicate":           {"log: {}\nlog: {}", "3: log: is there twice, first in line 2"},
		"nested duplicate":    {"log:\n  level: info\n  level: warn", "4: log.level: is there twice, first in line 3"},
		"scalar for section":  {"http: 5000", "2: http: must be a section, not a single value"},
		"list for section":    {"log: [a]", "2: log: must be a section, not a list"},
		"scalar for list":     {"http: {tls: {hosts: a}}", "2: http.tls.hosts: must be a list such as [a, b], not a single value"},
		"section for list":    {"http: {trustedproxies: {a: b}}", "2: http.trustedproxies: must be a list such as [a, b], not a section"},
		"section for scalar":  {"http: {addr: {a: b}}", "2: http.addr: must be a single value, not a section"},
		"list for a map":      {"log: {fields: [a]}", "2: log.fields: must be a section, not a list"},
		"list for a word":     {"log: {level: [a]}", "2: log.level: must be a single value, not a list"},
		"empty item":          {"http: {tls: {hosts: [a, ]}}\ncatalog: {maxentries: x}", "3: catalog.maxentries: must be a whole number, not \"x\""},
		"null item":           {"http: {tls: {hosts: [a, ~]}}", "2: http.tls.hosts.1: must not be empty"},
		"bad boolean":         {"http: {h2c: {enabled: 1}}", `2: http.h2c.enabled: must be true or false, not "1"`},
		"duration, no unit":   {"http: {draintimeout: 60}", `2: http.draintimeout: must be a duration with its unit, such as 90s, 45m or 24h, not "60"`},
		"negative duration":   {"gc: {grace: -1h}", `2: gc.grace: must be a duration with its unit, such as 90s, 45m or 24h, not "-1h"`},
		"zero lease":          {"gc: {lease: 0s}", "2: gc.lease: must be more than zero, such as 24h"},
		"zero rate":           {"gc: {rate: 0}", "2: gc.rate: is 0: it is at least 1 in a second"},
		"bad size":            {"storage: {filesystem: {minfree: -1}}", `2: storage.filesystem.minfree: must be a size such as 256MiB or 1GB, not "-1"`},
		"bad level":           {"log: {level: loud}", `2: log.level: must be one of debug, info, warn, error, not "loud"`},
		"bad mode":            {"http: {tls: {mode: on}}", `2: http.tls.mode: must be one of auto, files, acme, off, not "on"`},
		"old TLS":             {"http: {tls: {minimumtls: tls1.0}}", `2: http.tls.minimumtls: must be one of tls1.2, tls1.3, not "tls1.0"`},
		"bad network":         {"http: {trustedproxies: [a]}", `2: http.trustedproxies.0: must be an address or a network such as 10.0.0.0/8, not "a"`},
		"bad expression":      {"validation: {manifests: {urls: {deny: ['(']}}}", "2: validation.manifests.urls.deny.0: error parsing regexp: missing closing ): `(`"},
		"addr, no port":       {"http: {addr: localhost}", `2: http.addr: must be HOST:PORT or :PORT, such as :5000, not "localhost"`},
		"addr, bad port":      {"http: {addr: ':70000'}", `2: http.addr: must be HOST:PORT or :PORT, such as :5000, not ":70000"`},
		"addr, empty port":    {"http: {addr: ':'}", `2: http.addr: must be HOST:PORT or :PORT, such as :5000, not ":"`},
		"unix, no path":       {"http: {net: unix}", "2: http.addr: must be the path of the socket when http.net is unix"},
		"host, no scheme":     {"http: {host: a.example}", `2: http.host: must be a URL such as https://registry.example.com, without a user or a query`},
		"prefix":              {"http: {prefix: /a}", `2: http.prefix: must begin and end with a slash, such as /registry/, not "/a"`},
		"header name":         {"http: {headers: {'a b': [c]}}", "2: http.headers.a b: is not the name of an HTTP header"},
		"header value":        {`http: {headers: {a: ["b\r\nc: d"]}}`, "2: http.headers.a: must not hold line breaks or control characters"},
		"certificate, no key": {"http:\n  tls: {certificate: c}", "3: http.tls.key: is missing: http.tls.certificate is given, and one is of no use without the other"},
		"key, no certificate": {"http: {tls: {key: c}}", "2: http.tls.certificate: is missing: http.tls.key is given, and one is of no use without the other"},
		"files without files": {"http: {tls: {mode: files}}", "2: http.tls.mode: files needs http.tls.certificate and http.tls.key"},
		"auto with files": {"http: {tls: {mode: auto, certificate: c, key: k}}",
			"2: http.tls.mode: auto makes a certificate of its own: remove http.tls.certificate and http.tls.key, or set the mode to files"},
		"host with port":      {"http: {tls: {hosts: ['a:443']}}", `2: http.tls.hosts: "a:443" is neither a host name nor an address; leave out scheme and port`},
		"acme, no hosts":      {"http: {tls: {letsencrypt: {email: a@b}}}", "2: http.tls.letsencrypt.hosts: is missing: list the names that clients use"},
		"acme, bare host":     {"http: {tls: {letsencrypt: {hosts: [nas]}}}", `2: http.tls.letsencrypt.hosts: "nas" is not a host name with its domain, such as registry.example.com`},
		"acme, wildcard":      {"http: {tls: {letsencrypt: {hosts: ['*.a.example']}}}", `2: http.tls.letsencrypt.hosts: "*.a.example" is not a host name with its domain, such as registry.example.com`},
		"acme, address":       {"http: {tls: {letsencrypt: {hosts: [192.0.2.1]}}}", `2: http.tls.letsencrypt.hosts: "192.0.2.1" is not a host name with its domain, such as registry.example.com`},
		"acme, no email":      {"http: {tls: {letsencrypt: {hosts: [a.example], email: me}}}", `2: http.tls.letsencrypt.email: must be an email address, not "me"`},
		"acme in the clear":   {"http: {tls: {letsencrypt: {hosts: [a.example], directoryurl: 'http://a.example/'}}}", `2: http.tls.letsencrypt.directoryurl: must be the https URL of an ACME directory, not "http://a.example/"`},
		"acme with files":     {"http: {tls: {mode: acme, certificate: c, letsencrypt: {hosts: [a.example]}}}", "2: http.tls.mode: acme gets its certificates by itself: remove http.tls.certificate and http.tls.key, or set the mode to files"},
		"files with acme":     {"http: {tls: {certificate: c, key: k, letsencrypt: {hosts: [a.example]}}}", "2: http.tls.letsencrypt: can't be used together with http.tls.certificate: remove one of the two"},
		"auto with acme":      {"http: {tls: {mode: auto, letsencrypt: {hosts: [a.example]}}}", "2: http.tls.mode: auto makes a certificate of its own: remove http.tls.letsencrypt, or set the mode to acme"},
		"CA without its key":  {"http: {tls: {auto: {certificate: c}}}", "2: http.tls.auto.key: is missing: http.tls.auto.certificate is given, and one is of no use without the other"},
		"key without its CA":  {"http: {tls: {auto: {key: k}}}", "2: http.tls.auto.certificate: is missing: http.tls.auto.key is given, and one is of no use without the other"},
		"clients, no CA":      {"http: {tls: {clientauth: request-client-cert}}", "2: http.tls.clientauth: needs http.tls.clientcas, the CAs that clients' certificates are of"},
		"clients in clear":    {"http: {tls: {mode: off, clientcas: [a]}}", "2: http.tls.clientcas: asks for certificates, and http.tls.mode is off: remove one of the two"},
		"unknown client auth": {"http: {tls: {clientcas: [a], clientauth: always}}", `2: http.tls.clientauth: must be one of request-client-cert, require-any-client-cert, verify-client-cert-if-given, require-and-verify-client-cert, not "always"`},
		"weak cipher":         {"http: {tls: {ciphersuites: [TLS_RSA_WITH_RC4_128_SHA]}}", `2: http.tls.ciphersuites: "TLS_RSA_WITH_RC4_128_SHA" is not a secure cipher suite of Go's crypto/tls`},
		"htpasswd, no path":   {"auth: {htpasswd: {realm: r}}", "2: auth.htpasswd.path: is missing: name the file that registry user add, or htpasswd -B, writes"},
		"token, no realm":     {"auth: {token: {service: s, issuer: i, jwks: j}}", "2: auth.token.realm: must be the URL of the token server, such as https://auth.example.com/token"},
		"token, no service":   {"auth: {token: {realm: 'https://a', issuer: i, jwks: j}}", "2: auth.token.service: is missing: it is what the server's tokens have for it"},
		"token, no issuer":    {"auth: {token: {realm: 'https://a', service: s, jwks: j}}", "2: auth.token.issuer: is missing: it is what the server's tokens have for it"},
		"token, no key":       {"auth: {token: {realm: 'https://a', service: s, issuer: i}}", "2: auth.token.rootcertbundle: is missing: tokens are checked with its certificates, or with the keys of auth.token.jwks"},
		"token, bad path":     {"auth: {token: {service: s, issuer: i, jwks: j, autoredirect: true, autoredirectpath: x}}", `2: auth.token.autoredirectpath: must be a path such as /auth/token, not "x"`},
		"token, HMAC":         {"auth: {token: {realm: 'https://a', service: s, issuer: i, jwks: j, signingalgorithms: [HS256]}}", `2: auth.token.signingalgorithms: "HS256" is none that can be checked: use EdDSA, ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384, PS512`},
		"short tokens":        {"auth: {tokens: {lifetime: 30s}}", "2: auth.tokens.lifetime: must be at least 1m: some clients can't work with less"},
		"access, null":        {"access:", "2: access: has no rules: write some, or remove it to let every user do everything"},
		"access, empty":       {"access: []", "2: access: has no rules: write some, or remove it to let every user do everything"},
		"access, unknown key": {"access: [{user: b}]", "2: access.0.user: unknown key; the nearest known one is access.0.users"},
		"access and token":    {"auth: {token: {realm: 'https://a', service: s, issuer: i, jwks: j}}\naccess: [{repositories: [a], anonymous: [pull]}]", "3: access: has no effect beside auth.token, where the scopes of the tokens decide: remove one of the two"},
		"access and none":     {"auth: none\naccess: [{repositories: [a], anonymous: [pull]}]", "3: access: has no effect with auth none, where everybody may do everything: remove one of the two"},
		"none with settings":  {"auth: {none: {realm: r}}", "2: auth.none: takes no settings"},
		"two methods":         {"auth: {htpasswd: {path: p}, none: }", "2: auth: only one of htpasswd (r.yml:2), none (r.yml:2) can be used; remove the others or set REGISTRY_AUTH to the one that you want"},
		"unknown method":      {"auth: ldap", "2: auth: must be one of htpasswd, token, none"},
		"unknown driver":      {"storage: floppy", "2: storage: must be one of filesystem, s3"},
		"unknown driver, key": {"storage: {filesytem: }", "2: storage.filesytem: unknown key; the nearest known one is storage.filesystem"},
		"cache, no size": {"storage: {s3: {bucket: a, region: b}, redirect: {disable: true}, cache: {disk: {directory: d}}}",
			"2: storage.cache.disk.size: is missing beside storage.cache.disk.directory: say how much may be kept there, such as 20GiB"},
		"cache, no directory": {"storage: {s3: {bucket: a, region: b}, redirect: {disable: true}, cache: {disk: {size: 1GiB}}}",
			"2: storage.cache.disk.directory: is missing beside storage.cache.disk.size: name a directory on a local disk"},
		"cache, empty size": {"storage: {s3: {bucket: a, region: b}, cache: {disk: {directory: d, size: 0}}}",
			"2: storage.cache.disk.size: is missing beside storage.cache.disk.directory: say how much may be kept there, such as 20GiB"},
		"cache, bad size":    {"storage: {cache: {disk: {size: 10 gigs}}}", `2: storage.cache.disk.size: must be a size such as 256MiB or 1GB, not "10 gigs"`},
		"cache, unknown key": {"storage: {cache: {disc: {}}}", "2: storage.cache.disc: unknown key; the nearest known one is storage.cache.disk"},
		"long password":      {"auth: {initialpassword: " + strings.Repeat("x", 73) + "}", "2: auth.initialpassword: must not be longer than 72 bytes"},
		"foreign tag":        {"log: {level: !!binary aGk=}", "2: log.level: has the YAML tag !!binary, which means nothing here"},
		"merge of a scalar":  {"log: {<<: a}", "2: log: a merge key (<<) needs an alias of a mapping"},
		"complex key":        {"log: {[a]: b}", "2: log: has a key that is not a plain name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(t, "version: 0.1\n"+tt.file)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("the error is %v", err)
			}
			if !slices.Contains(strings.Split(err.Error(), "\n"), "r.yml:"+tt.want) {
				t.Errorf("got  %s\nwant r.yml:%s", err, tt.want)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, _, err := parse(t, "version: 2\nhttp:\n  addr: x\n  adress: 1\nlog:\n  level: y\n", "REGISTRY_GC_LEASE=z")
	want := []string{
		"r.yml:1: version: must be 0.1, the only version of the format",
		`r.yml:3: http.addr: must be HOST:PORT or :PORT, such as :5000, not "x"`,
		"r.yml:4: http.adress: unknown key; the nearest known one is http.addr",
		`r.yml:6: log.level: must be one of debug, info, warn, error, not "y"`,
		`REGISTRY_GC_LEASE: gc.lease: must be a duration with its unit, such as 90s, 45m or 24h, not "z"`,
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
}

func TestHostileFiles(t *testing.T) {
	bomb := "version: 0.1\nlog:\n  fields:\n    a: &a0 {x: y}\n"
	for i := range 30 {
		bomb += fmt.Sprintf("    b%d: &a%d {x: *a%d, y: *a%d}\n", i, i+1, i, i)
	}
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "k%d%s: 1\n", i, strings.Repeat("x", 90))
	}
	for name, tt := range map[string]struct{ file, want string }{
		"aliases of aliases": {bomb, "too large or too deeply nested"},
		"alias of itself":    {"version: 0.1\nlog: &l {fields: *l}", "too large or too deeply nested"},
		"deep":               {strings.Repeat("{a: ", 500) + strings.Repeat("}", 500), "too large or too deeply nested"},
		"very deep":          {strings.Repeat("[", 200_000), "not valid YAML"},
		"many unknown keys":  {many.String(), "and 4951 more problems"},
		"long key":           {"version: 0.1\n" + strings.Repeat("k", 1000) + ": 1", "unknown key"},
		"not YAML":           {"a: b: c", "r.yml: not valid YAML"},
		"a tab":              {"version: 0.1\nhttp:\n\taddr: x", "not valid YAML"},
		"not UTF-8":          {"\xff\xfe\xfd", "not valid YAML"},
		"a scalar":           {"hello", "r.yml:1: must be a YAML mapping of sections such as http and storage"},
		"a list":             {"- a", "must be a YAML mapping"},
		"two documents":      {"version: 0.1\n---\nversion: 0.1", "must be a single YAML document"},
		"empty":              {"", "version: is missing"},
		"comment":            {"# nothing", "version: is missing"},
		"null":               {"~", "version: is missing"},
		"no version":         {"log: {}", "version: is missing"},
		"version section":    {"version: {}", "version: must be 0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(t, tt.file)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestSecretsStayOutOfMessages gives secrets where they can't be used.
func TestSecretsStayOutOfMessages(t *testing.T) {
	const secret = "hunter2"
	for _, file := range []string{
		"auth: {initialpassword: *" + secret + "}",
		"auth: {initialpassword: {a: " + secret + "}}",
		"auth: {initialpassword: [" + secret + "]}",
		"auth: {initialpassword: " + strings.Repeat(secret, 20) + "}",
		"auth: " + secret,
		"auth: [" + secret + "]",
		"storage: {s3: {secretkey: " + secret + "}}",
		"storage: {s3: {bucket: a, region: b, secretkey: [" + secret + "]}}",
		"proxy: {remoteurl: a, password: " + secret + "}",
		"http: {secret: " + secret + "}\nfoo: bar",
		"http: {host: 'https://u:" + secret + "@a.example/?b'}",
	} {
		if _, _, err := parse(t, "version: 0.1\n"+file); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, v := range []string{"AUTH=", "AUTH=[", "AUTH={initialpassword: *", "HTTP_SECRET=", "STORAGE_S3_SECRETKEY=", "VERSION="} {
		_, warnings, err := Parse("", nil, []string{"REGISTRY_" + v + secret})
		if text := fmt.Sprint(warnings, err); strings.Contains(text, secret) {
			t.Errorf("%s: %s", v, text)
		}
	}
}
