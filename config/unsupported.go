package config

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// row is a key that is known but that this version does not act on. What belongs to it is not looked at.
type row struct {
	// key is the dotted key; everything below it belongs to it.
	key string
	// below lists the keys below it that a variable may name; others are taken for variables of other programs.
	below string
	// refused is set when the key would change what is stored, served or allowed. Other keys are only warned about.
	refused bool
	// kind is set when the key is a choice of its section (see Config), even when it is empty.
	kind bool
	// counts is the one key below it that asks for something. Without it, every one does.
	counts string
	// note says what to do instead. A refused row has one; with one, a row that is not refused gets a warning of its own.
	note string
}

// unsupported is the table of known keys that this version does not have. Once it has one, its row goes and a field of
// Config takes its place.
func unsupported() []row {
	const other = "use storage.s3 or storage.filesystem, and copy the images from the old registry with registry import"
	const initial = "remove it; use auth.htpasswd, or leave the auth section out to get a user admin"
	const remove = "remove it"
	return []row{
		// Berth's own keys.
		{key: "policy.repository", below: "classes", refused: true, note: remove},

		// Distribution's storage.
		{key: "storage.s3aws", kind: true, refused: true, note: "call the section s3"},
		{key: "storage.s3.redirectendpoint", refused: true, note: "use storage.redirect.endpoint, and leave the bucket's name " +
			"to the registry: it comes before the host, or into the path with storage.s3.forcepathstyle or storage.s3.regionendpoint"},
		{key: "storage.s3.v4auth"},
		{key: "storage.s3.loglevel"},
		{key: "storage.s3.multipartcopychunksize"},
		{key: "storage.s3.multipartcopymaxconcurrency"},
		{key: "storage.s3.multipartcopythresholdsize"},
		{key: "storage.s3.multipartcombinesmallpart"},
		{key: "storage.azure", below: "accountname accountkey container realm rootdirectory credentials serviceurl connectionstring skipverify", kind: true,
			refused: true, note: other},
		{key: "storage.gcs", below: "bucket keyfile rootdirectory chunksize credentials useragent maxconcurrency", kind: true, refused: true,
			note: other},
		{key: "storage.swift", below: "username password authurl tenant tenantid domain domainid region container prefix " +
			"chunksize insecureskipverify endpointtype trustid", kind: true, refused: true, note: other},
		{key: "storage.oss", below: "accesskeyid accesskeysecret region bucket endpoint internal encrypt secure " +
			"chunksize rootdirectory", kind: true, refused: true, note: other},
		{key: "storage.inmemory", kind: true, refused: true, note: "use storage.filesystem on a tmpfs"},
		{key: "storage.cache.blobdescriptor"},
		{key: "storage.cache.blobdescriptorsize"},
		{key: "storage.cache.layerinfo"},
		{key: "storage.filesystem.maxthreads"},
		{key: "storage.tag", below: "concurrencylimit"},

		// Distribution's access control.
		{key: "auth.silly", below: "realm service", kind: true, refused: true, note: initial},

		// The rest of distribution's keys.
		{key: "compatibility.schema1.enabled", refused: true, note: "remove it; convert schema 1 images before you move them"},
		{key: "compatibility.schema1.signingkeyfile"},
		{key: "health", below: "storagedriver file http tcp",
			note: "GET /health and registry healthcheck say whether the registry can reach its database"},
		{key: "http.secret"},
		{key: "log.hooks"},
		{key: "log.reportcaller"},
		{key: "middleware", below: "registry repository storage", refused: true,
			note: "remove it; what clients need to reach the bucket by another name is storage.redirect.endpoint"},
		{key: "notifications", below: "endpoints events", counts: "endpoints",
			note: "this version sends none; audit.output records pushes and deletes"},
		{key: "proxy", below: "remoteurl username password ttl exec remotenamespace cachewritetimeout", counts: "remoteurl",
			refused: true, note: "remove it; run a pull-through mirror as a registry:3 of its own beside this registry"},
		{key: "redis", below: "addr addrs clientname connmaxidletime connmaxlifetime contexttimeoutenabled db dialtimeout " +
			"disableidentity identitysuffix mastername maxactiveconns maxidleconns maxredirects maxretries maxretrybackoff " +
			"minidleconns minretrybackoff password pool poolfifo poolsize pooltimeout protocol readonly readtimeout " +
			"routebylatency routerandomly sentinelpassword sentinelusername tls unstableresp3 username writetimeout"},
		{key: "reporting", below: "bugsnag newrelic"},
		{key: "tags", below: "maxtags", note: "an answer lists at most 10000 tags"},
		{key: "validation.enabled"},
	}
}

// apply refuses or ignores a key of the table, unless it asks for nothing.
func (l *loader) apply(r row, n *yaml.Node) {
	switch {
	case !r.kind && !r.asks(n):
	case r.refused:
		l.fail(n, r.key, "this version does not have it: %s", r.note)
	case r.note != "":
		l.warn(n, r.key, "has no effect here: "+r.note)
	default:
		l.ignore(n, r.key)
	}
}

// asks reports whether the value of a row's key asks for something.
func (r row) asks(n *yaml.Node) bool {
	if r.counts != "" && n.Kind == yaml.MappingNode {
		n = child(n, r.counts)
	}
	return n != nil && !inert(n)
}

// inert reports whether a value asks for nothing: null, false, empty, disabled, or made of such values.
func inert(n *yaml.Node) bool {
	switch n.Kind {
	case yaml.MappingNode:
		if disabled(n) {
			return true
		}
		for _, v := range pairs(n) {
			if !inert(v) {
				return false
			}
		}
		return true
	case yaml.SequenceNode:
		return !slices.ContainsFunc(n.Content, func(v *yaml.Node) bool { return !inert(v) })
	}
	b, err := parseBool(n.Value)
	return isNull(n) || n.Value == "" || err == nil && !b
}

// disabled reports whether a section is switched off, as an endpoint of notifications is by "disabled: true".
func disabled(n *yaml.Node) bool {
	d := child(n, "disabled")
	if d == nil {
		return false
	}
	b, err := parseBool(d.Value)
	return err == nil && b
}

// rowAt returns the row of a key.
func (l *loader) rowAt(key string) (row, bool) {
	for _, r := range l.rows {
		if r.key == key {
			return r, true
		}
	}
	return row{}, false
}

// leadsToRow reports whether a key is a section on the way to a row.
func (l *loader) leadsToRow(key string) bool {
	for _, r := range l.rows {
		if strings.HasPrefix(r.key, key+".") {
			return true
		}
	}
	return false
}

// rowOf returns the row that a variable belongs to.
func (l *loader) rowOf(path []string) (row, bool) {
	key := strings.Join(path, ".")
	for _, r := range l.rows {
		if key == r.key || strings.HasPrefix(key, r.key+".") && r.covers(key[len(r.key)+1:]) {
			return r, true
		}
	}
	return row{}, false
}

// covers reports whether a variable may name what is below a row's key: an item of a list, a key that the row lists or
// something of that key, or the file of a secret.
func (r row) covers(rest string) bool {
	first, _, _ := strings.Cut(rest, ".")
	if _, err := strconv.ParseUint(first, 10, 31); err == nil || rest == "file" && r.key == "http.secret" {
		return true
	}
	for name := range strings.FieldsSeq(r.below) {
		if first == name {
			return true
		}
	}
	return false
}
