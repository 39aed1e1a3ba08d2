package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"berth/atomicfile"
)

// The files of Directory.
const (
	authorityFile    = "ca.pem"
	authorityKeyFile = "ca-key.pem"
	certificateFile  = "certificate.pem"
	keyFile          = "key.pem"
	learntFile       = "learnt.txt"
)

const (
	// pollInterval is the time between two looks at the clock, the machine's addresses, or the files.
	pollInterval = 2 * time.Second
	// gathering is how long a new address has to stay before it gets into the certificate: docker's bridges come and go.
	gathering = 10 * time.Second
	// mostNames is how many names a certificate may gather before those that are no longer in use are dropped.
	mostNames = 100
	// authorityWarning is how long before the end of a CA there are warnings.
	authorityWarning = 180 * day
)

// auto serves with a certificate of its own CA.
type auto struct {
	config     Config
	system     system
	log        *slog.Logger
	authority  *Authority
	configured []string
	current    atomic.Pointer[served]

	mu     sync.Mutex // held while the certificate is replaced; guards what follows
	hosts  []string   // what the machine calls itself
	learnt []string
	full   bool // whether it was logged that no more is learnt
	// fullUntil is until when that counts without another look.
	fullUntil time.Time
	// used has when a request last had a name that is learnt, in seconds and to the hour; at first when that was read. The times, which
	// served has too, need no lock.
	used map[string]*atomic.Int64
	// refused are names that the CA can't sign a certificate for, because of its constraints.
	refused map[string]bool
}

// served is the certificate in use. It is never changed, only replaced.
type served struct {
	certificate *tls.Certificate
	names       map[string]bool
	used        map[string]*atomic.Int64 // as auto has it
}

func openAuto(c Config, s system, log *slog.Logger) (*auto, error) {
	if c.Directory == "" {
		return nil, errors.New("http.tls.mode is auto, which needs a directory to keep the certificate in")
	}
	configured, err := c.configuredNames()
	if err != nil {
		return nil, err
	}
	a := &auto{config: c, system: s, log: log, configured: configured, refused: make(map[string]bool), used: make(map[string]*atomic.Int64)}
	a.hosts = s.hostNames(context.Background())
	if a.authority, err = a.openAuthority(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Directory, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the TLS certificate: %w", err)
	}
	if err := atomicfile.Sweep(c.Directory); err != nil {
		log.Warn("what a crash left beside the TLS certificate stays", "error", err)
	}
	if err := a.openLearnt(); err != nil {
		return nil, err
	}
	if len(c.Hosts) == 0 && s.inContainer() {
		log.Warn("a container does not see by which names and addresses the machine is reached: list them in http.tls.hosts")
	}
	return a, a.openLeaf()
}

func (a *auto) openLearnt() (err error) {
	if a.config.LearnDisabled {
		return nil
	}
	if a.learnt, err = readLearnt(a.config.path(learntFile)); err != nil {
		return fmt.Errorf("read the names that requests taught: %w", err)
	}
	a.markUsed(a.learnt...)
	return nil
}

// openAuthority loads the CA, after making one where there never was one.
func (a *auto) openAuthority() (*Authority, error) {
	authority, err := LoadAuthority(a.config)
	if errors.Is(err, ErrNoAuthority) {
		if err := a.makeAuthority(); err != nil {
			return nil, fmt.Errorf("make a CA in %s: %w", a.config.Directory, err)
		}
		authority, err = LoadAuthority(a.config)
	}
	if err != nil {
		return nil, err
	}
	return authority, a.judgeAuthority(authority)
}

func (a *auto) makeAuthority() error {
	now := a.system.now()
	if now.Before(a.config.BuildTime) {
		return fmt.Errorf("the clock says %s, which is before this program was built: set the clock and start again",
			now.UTC().Format(time.DateTime))
	}
	created, err := a.config.createAuthority(now, a.title())
	if created {
		a.log.Info("CA made: clients have to be told to trust it", "certificate", a.config.path(authorityFile))
	}
	return err
}

// selfSigned tells the certificates of the first versions, which had no CA.
func selfSigned(leaf *x509.Certificate) bool {
	return leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil
}

// title is the name by which people know the machine.
func (a *auto) title() string {
	candidates := []string{a.config.hostname()}
	candidates = append(append(candidates, a.config.Hosts...), a.hosts...)
	for _, candidate := range append(candidates, "localhost") {
		if candidate != "" {
			return candidate
		}
	}
	return ""
}

// judgeAuthority reports what can be wrong with a CA because of the time, and mends who may read its key. An expired CA
// of the registry's own stays: that its clients refuse it is no reason to let down those that don't look.
func (a *auto) judgeAuthority(authority *Authority) error {
	now, ca := a.now(), authority.Certificate()
	given := a.config.AuthorityCertificate != ""
	const remedy = "remove ca.pem, ca-key.pem and certificate.pem, start again and let every client trust the new CA"
	switch log := a.log.With("expires", ca.NotAfter, "sha256", fingerprint(ca)); {
	case given && now.After(ca.NotAfter):
		return fmt.Errorf("http.tls.auto.certificate %s expired on %s", a.config.AuthorityCertificate, ca.NotAfter.Format(time.DateOnly))
	case now.After(ca.NotAfter):
		log.Error("the CA has expired: clients refuse the certificate", "remedy", remedy)
	case now.Before(ca.NotBefore):
		log.Error("the CA is not valid yet, or the clock is behind", "valid", ca.NotBefore, "remedy", "set the clock, or "+remedy)
	case now.Add(authorityWarning).After(ca.NotAfter):
		log.Warn("the CA expires soon", "remedy", remedy)
	}
	if given {
		return nil
	}
	return a.protect(authorityKeyFile)
}

// protect takes a key from everybody but its owner, as after a restored backup.
func (a *auto) protect(file string) error {
	path := a.config.path(file)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	a.log.Warn("others could read a private key, and no longer can", "key", path)
	return nil
}

// now is the time by which certificates are made and judged: the clock's, unless that is known to be behind.
func (a *auto) now() time.Time {
	if now := a.system.now(); now.After(a.config.BuildTime) {
		return now
	}
	return a.config.BuildTime
}

// LoadLeaf returns the certificate that the registry of a directory serves with in mode auto. It works while a server runs.
func LoadLeaf(directory string) (*x509.Certificate, error) {
	data, err := os.ReadFile(filepath.Join(directory, certificateFile))
	if err != nil {
		return nil, fmt.Errorf("read the TLS certificate: %w", err)
	}
	leaf, err := firstCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("read the TLS certificate %s: %w", filepath.Join(directory, certificateFile), err)
	}
	return leaf, nil
}

// openLeaf serves with the certificate that is kept, after replacing it where needed.
func (a *auto) openLeaf() error {
	wanted, err := a.wanted()
	if err != nil {
		return fmt.Errorf("find the machine's addresses: %w", err)
	}
	kept, reason := a.loadLeaf()
	if reason == "" {
		a.serve(kept)
		reason = a.outdated()
	}
	if reason != "" {
		return a.replace(reason, wanted, a.newLife())
	}
	if missing := a.missing(wanted); len(missing) > 0 {
		return a.add(missing)
	}
	return nil
}

// loadLeaf returns the certificate that is kept, or why it is of no use. There is nothing to lose: another can be made.
func (a *auto) loadLeaf() (kept *tls.Certificate, reason string) {
	pair, err := tls.LoadX509KeyPair(a.config.path(certificateFile), a.config.path(keyFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, "there was none"
	case err != nil:
		return nil, "the old one is damaged: " + err.Error()
	case pair.Leaf.CheckSignatureFrom(a.authority.Certificate()) != nil:
		return nil, "the old one is not of this CA"
	}
	if err := a.protect(keyFile); err != nil {
		return nil, "others can read its key: " + err.Error()
	}
	return &pair, ""
}

// outdated says why the certificate in use has to be replaced because of the time, or nothing.
func (a *auto) outdated() string {
	leaf, now := a.leaf(), a.now()
	switch {
	case now.Before(leaf.NotBefore):
		return "the old one is not valid yet"
	case !leaf.NotAfter.Before(a.authority.Certificate().NotAfter):
		return "" // a new one would not live longer
	case !now.Before(life{leaf.NotBefore, leaf.NotAfter}.renewal()):
		return "two thirds of the old one's life are over"
	}
	return ""
}

func (a *auto) newLife() life { return a.authority.lifeFrom(a.now(), leafLifetime) }

// wanted returns the names that clients may call this machine by.
func (a *auto) wanted() ([]string, error) {
	addresses, err := a.system.localAddresses()
	names := merge([]string{"localhost", "127.0.0.1", "::1"}, a.configured...)
	names = merge(names, a.hosts...)
	return merge(merge(names, addresses...), a.learnt...), err
}

// missing returns the names that the certificate in use lacks, and could have.
func (a *auto) missing(names []string) []string {
	known := a.current.Load().names
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return known[name] || a.refused[name] })
}

// signable leaves out the names that the CA can't sign for, but for those that the configuration asks for.
func (a *auto) signable(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !slices.Contains(a.configured, name) && !a.canSign(name)
	})
}

// canSign reports whether the CA can sign a certificate for a name. It says so once of one that it can't.
func (a *auto) canSign(name string) bool {
	if a.refused[name] {
		return false
	}
	_, err := a.authority.issue(a.title(), []string{name}, a.newLife())
	if err != nil {
		a.refused[name] = true
		a.log.Warn("TLS certificate does not get a name: the CA can't sign for it", "name", name, "error", err)
	}
	return err == nil
}

// add replaces the certificate with one that has more names and ends when it would have ended. Names that are no longer in
// use stay until then, or until there are too many; those that are dropped go at once.
func (a *auto) add(missing []string, dropped ...string) error {
	leaf := a.leaf()
	reason := "the old one does not name " + strings.Join(missing, ", ")
	names := merge(certificateNames(leaf), missing...)
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(dropped, name) })
	if len(names) <= mostNames {
		return a.replace(reason, names, life{leaf.NotBefore, leaf.NotAfter})
	}
	wanted, err := a.wanted()
	if err != nil {
		return err
	}
	return a.replace(reason, wanted, a.newLife())
}

// replace makes a certificate and serves with it from now on, also where it can't be kept for the next start.
func (a *auto) replace(reason string, names []string, l life) error {
	made, err := a.authority.issue(a.title(), names, l)
	if err != nil {
		if possible := a.signable(names); len(possible) > 0 {
			made, err = a.authority.issue(a.title(), possible, l)
		}
	}
	if err != nil {
		return fmt.Errorf("make a TLS certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(made.certificate, made.key)
	if err != nil {
		return fmt.Errorf("make a TLS certificate: %w", err)
	}
	a.serve(&pair)
	a.log.Info("TLS certificate made", "reason", reason, "names", certificateNames(pair.Leaf), "expires", pair.Leaf.NotAfter,
		"sha256", fingerprint(pair.Leaf))
	if err := a.keep(made); err != nil {
		a.log.Error("TLS certificate is not kept for the next start", "error", err)
	}
	return nil
}

// keep writes the pair. A crash between the two files leaves a pair that does not match, which the next start replaces.
func (a *auto) keep(made pemPair) error {
	return atomicfile.WriteAll(atomicfile.File{Path: a.config.path(keyFile), Data: made.key, Mode: 0o600},
		atomicfile.File{Path: a.config.path(certificateFile), Data: made.certificate, Mode: 0o644})
}

func (a *auto) serve(pair *tls.Certificate) {
	names := make(map[string]bool)
	for _, name := range certificateNames(pair.Leaf) {
		names[name] = true
	}
	a.current.Store(&served{pair, names, maps.Clone(a.used)})
}

func (a *auto) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.current.Load().certificate, nil
}

func (a *auto) leaf() *x509.Certificate { return a.current.Load().certificate.Leaf }
