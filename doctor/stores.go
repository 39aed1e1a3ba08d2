package doctor

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const certificateDates = "2006-01-02 15:04 MST"

// certificate looks at the registry's certificate for itself: time and names.
func (e *examination) certificate() {
	leaf, now := e.chain[0], time.Now()
	switch {
	case now.After(leaf.NotAfter):
		e.fail("certificate", "If the date here is right, look at the registry's log: it should have got a new one",
			"expired on %s; here it is %s", leaf.NotAfter.Format(certificateDates), now.UTC().Format(certificateDates))
	case now.Before(leaf.NotBefore):
		e.fail("certificate", "Set the clock: of this machine if the date here is wrong, else of the registry's",
			"not valid before %s; here it is %s", leaf.NotBefore.Format(certificateDates), now.UTC().Format(certificateDates))
	case now.AddDate(0, 0, 7).After(leaf.NotAfter):
		e.note("certificate", "Look at the registry's log: it should have got a new one by now", "expires on %s", leaf.NotAfter.Format(certificateDates))
	default:
		e.ok("certificate", "valid until %s", leaf.NotAfter.Format(time.DateOnly))
	}
	names := sans(leaf)
	switch err := leaf.VerifyHostname(e.host); {
	case err == nil:
		e.ok("certificate", "names %s", e.host)
	case len(names) == 0:
		e.fail("certificate", "Have one made with "+e.host+" as a subject alternative name: for Berth's own, add it to http.tls.hosts",
			"names neither hosts nor addresses: a common name does not count")
	default:
		e.fail("certificate", "Use one of those names, or add "+e.host+" to the certificate: for Berth's own, in http.tls.hosts",
			"does not name %s, only %s", e.host, listed(names))
	}
}

func sans(leaf *x509.Certificate) []string {
	names := append([]string{}, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// trusts reports whether the registry's certificate comes from one of the pool's CAs. Its time and names don't count:
// that has been judged.
func (e *examination) trusts(pool *x509.CertPool) bool { return e.verify(pool) == nil }

func (e *examination) verify(pool *x509.CertPool) error {
	leaf, now := e.chain[0], time.Now()
	at := now
	if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	if at.Before(leaf.NotBefore) {
		at = leaf.NotBefore
	}
	between := x509.NewCertPool()
	for _, one := range e.chain[1:] {
		between.AddCert(one)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: at})
	var invalid x509.CertificateInvalidError
	if !at.Equal(now) && errors.As(err, &invalid) && invalid.Reason == x509.Expired && !invalid.Cert.Equal(leaf) {
		// This CA did sign it, but was not valid at that time, which is not now: it is judged at a time of its own.
		_, err = invalid.Cert.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: invalid.Cert.NotBefore,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	}
	return err
}

// trustRemedy is what mends an unknown CA.
func (e *examination) trustRemedy() string {
	return "Run the line that `registry cert show` prints on the registry's machine; https://" + e.name + "/trust shows it, too"
}

// containersCheck is the name of what is found about Podman, Skopeo and Buildah, which verify on loopback, too.
const containersCheck = "containers"

// stores looks into every place where a tool of this machine has its CAs.
func (e *examination) stores() {
	e.expected()
	tools := 0
	if e.found("/etc/docker", "dockerd", "docker") {
		tools++
		e.store("docker", "/etc/docker/certs.d/"+e.name)
	}
	if e.Home != "" && e.found(e.Home+"/.config/docker") {
		tools++
		e.store("docker (rootless)", e.Home+"/.config/docker/certs.d/"+e.name)
	}
	if e.found("/etc/containers", "podman", "skopeo", "buildah") {
		tools++
		usual := "/etc/containers/certs.d/" + e.name
		others := []string{usual, "/etc/docker/certs.d/" + e.name}
		if e.Home != "" {
			others = append([]string{e.Home + "/.config/containers/certs.d/" + e.name}, others...)
		}
		e.store(containersCheck, usual, others...)
	}
	if e.found("/etc/containerd", "containerd") {
		tools++
		e.containerdStore()
	}
	e.systemStore(tools)
}

// expected compares with the CA that the caller knows.
func (e *examination) expected() {
	if e.CA == nil {
		return
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(e.CA) {
		e.fail("ca", "Get it with `registry cert ca` on the registry's machine", "%s holds no certificate", e.CAFile)
		return
	}
	if err := e.verify(pool); err != nil {
		e.fail("ca", "Compare `registry cert show` on the registry's machine with the file: it has another CA, or another server answers",
			"the certificate is not from the CA in %s: %v", e.CAFile, err)
		return
	}
	e.ok("ca", "the certificate is from the CA in %s", e.CAFile)
}

func (e *examination) systemStore(tools int) {
	const check = "system"
	err := e.verify(e.System)
	switch {
	case err == nil:
		e.ok(check, "trusts the CA of the certificate")
	case tools == 0:
		e.fail(check, e.trustRemedy()+". Put --system at its end", "does not trust the certificate: %v", err)
	default:
		e.note(check, "If you need those, run the trust line with --system at its end, or set SSL_CERT_FILE to the CA's file",
			"does not trust the certificate; crane, docker buildx imagetools, curl, browsers and, for tokens, buildx ask it: %v", err)
	}
}

// store judges a tool that takes the CAs of its usual directory, or of the first of others that is there, besides the
// system's.
func (e *examination) store(check, usual string, others ...string) {
	directory := usual
	if i := slices.IndexFunc(others, e.exists); i >= 0 {
		directory = others[i]
	}
	pool := e.System.Clone()
	if e.loadDirectory(check, directory, pool) {
		e.judge(check, directory, pool)
	}
}

func (e *examination) judge(check, place string, pool *x509.CertPool) {
	if err := e.verify(pool); err != nil {
		e.lacks(check, e.trustRemedy(), "does not trust the certificate, neither by %s nor by the system's store: %v", place, err)
		return
	}
	e.ok(check, "trusts the CA of the certificate")
}

// lacks adds a finding about the store of a tool that lacks something. By a loopback address, docker and containerd verify
// nothing, and work nevertheless.
func (e *examination) lacks(check, remedy, format string, args ...any) bool {
	status := Fail
	if check != containersCheck && e.onLoopback() {
		status = Note
	}
	e.add(status, check, remedy, format, args...)
	return false
}

// loadDirectory adds the *.crt of a directory, and reports what its tool would stumble over.
func (e *examination) loadDirectory(check, directory string, pool *x509.CertPool) bool {
	entries, err := os.ReadDir(e.path(directory))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return e.lacks(check, "Make it readable", "%s can't be read: %v", directory, plain(err))
	}
	for _, entry := range entries {
		path := directory + "/" + entry.Name()
		switch filepath.Ext(path) {
		case ".crt":
			if err := e.loadFile(path, pool); err != nil {
				return e.lacks(check, "Put the CA's certificate there, as PEM", "%v", err)
			}
		case ".cert", ".key":
			if other := counterpart(path); !e.exists(other) {
				return e.lacks(check, "Put both there, or remove "+path, "%s is there, but not %s, which belongs to it", path, other)
			}
		}
	}
	return true
}

func counterpart(path string) string {
	if base, ok := strings.CutSuffix(path, ".cert"); ok {
		return base + ".key"
	}
	return strings.TrimSuffix(path, ".key") + ".cert"
}

// loadFile adds the certificates of a file, at least one.
func (e *examination) loadFile(path string, pool *x509.CertPool) error {
	data, err := os.ReadFile(e.path(path))
	if err != nil {
		return fmt.Errorf("%s can't be read: %w", path, plain(err))
	}
	if block, _ := pem.Decode(data); block == nil || !pool.AppendCertsFromPEM(data) {
		return fmt.Errorf("%s holds no certificate", path)
	}
	return nil
}

func (e *examination) path(name string) string { return filepath.Join("/", e.Root, name) }

func (e *examination) exists(name string) bool {
	_, err := os.Stat(e.path(name))
	return err == nil
}

// found reports whether a directory is there, or else one of the programs that would have made it.
func (e *examination) found(directory string, programs ...string) bool {
	if e.exists(directory) {
		return true
	}
	for _, program := range programs {
		for _, bin := range []string{"/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/", "/bin/", "/sbin/", "/snap/bin/"} {
			if e.exists(bin + program) {
				return true
			}
		}
	}
	return false
}
