package main

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"berth/atomicfile"
	"berth/config"
	"berth/tls"
	"berth/tls/trust"

	"github.com/spf13/cobra"
)

func certCommand(s streams) *cobra.Command {
	command := &cobra.Command{
		Use:   "cert",
		Short: "Look at the registry's certificate and its CA",
		Long: `Look at the certificate that the registry serves with and at its own CA, and have the CA issue certificates for other
machines. These commands read the files that the registry keeps: they work whether it runs or not, as its user or root.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(certShowCommand(s), certIssueCommand(s), certCACommand(s))
	return command
}

func certShowCommand(s streams) *cobra.Command {
	var address string
	var asJSON, onlyLine bool
	command := &cobra.Command{
		Use:   "show [CONFIG]",
		Short: "Show the certificate, the CA, and the line that makes a machine trust it",
		Example: `  registry cert show
  registry cert show --address registry.lan:5000 --line | ssh node sh`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, directory, err := s.tlsDirectory(args)
			if err != nil {
				return err
			}
			report, err := certificates(c, directory, address)
			if err != nil {
				return err
			}
			if onlyLine {
				return report.writeLine(s)
			}
			if asJSON {
				return s.printJSON(report)
			}
			return report.write(s)
		},
	}
	command.Flags().BoolVar(&onlyLine, "line", false, "print the line for another machine and nothing else, or fail where there is none")
	command.Flags().StringVar(&address, "address", "", "HOST:PORT by which other machines reach the registry, for the trust line")
	command.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return command
}

func certCACommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "ca [CONFIG]",
		Short: "Print the CA's certificate as PEM",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			authority, err := s.authority(args)
			if err != nil {
				return err
			}
			_, err = s.out.Write(authority.PEM())
			return err
		},
	}
}

func certIssueCommand(s streams) *cobra.Command {
	var hosts []string
	var directory string
	var force bool
	command := &cobra.Command{
		Use:   "issue [CONFIG] --hosts NAMES [--out DIRECTORY]",
		Short: "Issue a certificate for another server from the registry's CA",
		Long: `Issue a certificate, valid for a year, for a server with these host names and addresses. Machines that trust the
registry's CA for that server too accept it. certificate.pem and key.pem are written to DIRECTORY.`,
		Example: "  registry cert issue --hosts mirror.lan,10.0.0.5 --out /etc/mirror/tls",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			authority, err := s.authority(args)
			if err != nil {
				return err
			}
			certificate, key, err := authority.Issue(hosts, time.Now())
			if err != nil {
				return err
			}
			return s.writePair(directory, certificate, key, force)
		},
	}
	command.Flags().StringSliceVar(&hosts, "hosts", nil, "host names and addresses, separated by commas")
	command.Flags().StringVar(&directory, "out", ".", "directory to write to")
	command.Flags().BoolVar(&force, "force", false, "replace files that are there")
	_ = command.MarkFlagRequired("hosts") // the flag is there
	return command
}

// tlsDirectory returns the configuration and where the registry keeps certificates.
func (s streams) tlsDirectory(args []string) (*config.Config, string, error) {
	c, _, err := s.loadConfig(args)
	if err != nil {
		return nil, "", err
	}
	directory, err := dataDirectory(c, s.environ)
	return c, certificateDirectory(c.HTTP.TLS, directory), err
}

// authority returns the registry's own CA.
func (s streams) authority(args []string) (*tls.Authority, error) {
	c, directory, err := s.tlsDirectory(args)
	if err != nil {
		return nil, err
	}
	if c.HTTP.TLS.Mode != config.TLSAuto {
		return nil, fmt.Errorf("http.tls.mode is %s: only auto has a CA of its own", c.HTTP.TLS.Mode)
	}
	return tls.LoadAuthority(tlsConfig(c.HTTP, directory))
}

// writePair writes a certificate and its key to a directory, which is made if missing. What can't be written replaces
// neither.
func (s streams) writePair(directory string, certificate, key []byte, force bool) error {
	files := []atomicfile.File{
		{Path: filepath.Join(directory, "key.pem"), Data: key, Mode: 0o600},
		{Path: filepath.Join(directory, "certificate.pem"), Data: certificate, Mode: 0o644},
	}
	for _, f := range files {
		if _, err := os.Lstat(f.Path); err == nil && !force {
			return fmt.Errorf("%s is there already: name another directory with --out, or replace it with --force", f.Path)
		}
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	if err := atomicfile.WriteAll(files...); err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(s.out, f.Path)
	}
	return nil
}

// writeLine prints what another machine is to run.
func (r *certificateReport) writeLine(s streams) error {
	switch {
	case r.Trust == "":
		return fmt.Errorf("http.tls.mode is %s: the registry has no CA of its own that a machine would have to trust", r.Mode)
	case r.closed:
		return errors.New(r.Trust)
	case r.Warning != "":
		return errors.New(r.Warning)
	}
	_, err := fmt.Fprintln(s.out, r.Trust)
	return err
}

// certificateReport is what `cert show` shows.
type certificateReport struct {
	Mode         string            `json:"mode"`
	Certificates []certificateInfo `json:"certificates"`
	CA           *certificateInfo  `json:"ca,omitempty"`
	Address      string            `json:"address,omitempty"`
	Trust        string            `json:"trust,omitempty"`
	// Warning says why machines would refuse the registry at that address all the same.
	Warning string `json:"warning,omitempty"`

	closed bool // Trust is no line
}

type certificateInfo struct {
	File        string    `json:"file"`
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names,omitempty"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	Fingerprint string    `json:"fingerprint"`
	// Checksum is the SHA-256 of the file that /trust/ca.crt serves.
	Checksum string `json:"sha256,omitempty"`
}

func newCertificateInfo(file string, c *x509.Certificate) certificateInfo {
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return certificateInfo{
		File: file, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Names: names,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Fingerprint: trust.Fingerprint(c),
	}
}

// certificates reads what the configured mode serves with.
func certificates(c *config.Config, directory, address string) (*certificateReport, error) {
	report := &certificateReport{Mode: c.HTTP.TLS.Mode}
	for _, file := range certificateFiles(c.HTTP.TLS, directory) {
		certificate, err := readCertificate(file)
		if err != nil {
			return nil, err
		}
		report.Certificates = append(report.Certificates, newCertificateInfo(file, certificate))
	}
	switch c.HTTP.TLS.Mode {
	case config.TLSOff:
		return nil, errors.New("http.tls.mode is off: the registry serves plain HTTP, without a certificate")
	case config.TLSAuto:
		authority, err := tls.LoadAuthority(tlsConfig(c.HTTP, directory))
		if err != nil {
			return nil, err
		}
		file := cmp.Or(c.HTTP.TLS.Auto.Certificate, filepath.Join(directory, "ca.pem"))
		info := newCertificateInfo(file, authority.Certificate())
		info.Checksum = trust.Checksum(authority.PEM())
		report.CA = &info
		reachable, ok := trust.Address(cmp.Or(address, publicAddress(c.HTTP)))
		if !ok && address != "" {
			return nil, fmt.Errorf("--address: %q is not HOST:PORT", address)
		}
		report.Address = reachable
		report.Trust = trust.Line(reachable, authority.PEM())
		if closed(c.HTTP.TLS) {
			report.Trust, report.closed = copyCA(file, reachable), true
		}
		report.Warning = unnamed(report.Certificates[0], reachable, c.HTTP.TLS.Learn)
		if !ok {
			report.Warning = "how other machines reach the registry is not known: say it with --address, or name the host in http.tls.hosts"
		}
	}
	return report, nil
}

// certificateFiles returns the files that the registry's certificates are in, as package tls keeps them.
func certificateFiles(t config.TLS, directory string) []string {
	switch t.Mode {
	case config.TLSAuto:
		return []string{filepath.Join(directory, "certificate.pem")}
	case config.TLSFiles:
		return []string{t.Certificate}
	case config.TLSACME:
		var files []string
		for _, host := range t.LetsEncrypt.Hosts {
			files = append(files, filepath.Join(cmp.Or(t.LetsEncrypt.CacheFile, filepath.Join(directory, "acme")), strings.ToLower(host)))
		}
		return files
	}
	return nil
}

// readCertificate returns the first certificate of a PEM file, which may hold a key before it.
func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no certificate yet, or it is elsewhere: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read the certificate %s: %w", path, err)
			}
			return certificate, nil
		}
	}
	return nil, fmt.Errorf("%s holds no certificate", path)
}

// unknownAddress stands for the address of a registry that does not know it.
const unknownAddress = "HOST:PORT"

// publicAddress is trustAddress, or empty when that is the ID of a container: no other machine knows it, and the port may be another one
// outside.
func publicAddress(c config.HTTP) string {
	address := trustAddress(c)
	if host, _, err := net.SplitHostPort(address); err == nil && len(c.TLS.Hosts) == 0 && containerID(host) {
		return ""
	}
	return address
}

// containerID reports whether a host name is one that docker and podman give to a container.
func containerID(host string) bool {
	return len(host) == 12 && strings.Trim(host, "0123456789abcdef") == ""
}

// trustAddress is the HOST:PORT by which other machines most likely reach the registry, and by which this one can.
func trustAddress(c config.HTTP) string {
	if u, err := url.Parse(c.Host); err == nil && u.Host != "" {
		return u.Host
	}
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return "" // a socket: the line has a placeholder
	}
	if n, err := net.LookupPort("tcp", port); err == nil {
		port = fmt.Sprint(n)
	}
	ip, err := netip.ParseAddr(host)
	if host != "" && (err != nil || !ip.IsUnspecified()) {
		return net.JoinHostPort(host, port)
	}
	if len(c.TLS.Hosts) > 0 {
		return net.JoinHostPort(c.TLS.Hosts[0], port)
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return net.JoinHostPort(strings.ToLower(name), port)
}

// unnamed says that a certificate does not name the host of an address, if that is so. Private addresses and names for use
// nearby are added when they are first used.
func unnamed(c certificateInfo, address string, learn bool) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil || slices.Contains(c.Names, host) || learn && tls.Learnable(host) {
		return ""
	}
	return fmt.Sprintf("the certificate does not name %s: add it to http.tls.hosts and start the registry again", host)
}

// closed reports whether a machine without a certificate of its own is kept from the pages about trust, too.
func closed(t config.TLS) bool {
	return len(t.ClientCAs) > 0 && (t.ClientAuth == "" || strings.HasPrefix(t.ClientAuth, "require"))
}

// copyCA says how a machine comes to trust a registry from which it can't fetch the CA.
func copyCA(file, host string) string {
	return fmt.Sprintf("copy %s to the machine, for Docker as /etc/docker/certs.d/%s/ca.crt: without a client certificate it can't fetch it", file, host)
}

func (r *certificateReport) write(s streams) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	row := func(label, value string) { fmt.Fprintf(table, "%s\t%s\n", label, value) }
	row("mode", r.Mode)
	for _, c := range r.Certificates {
		row("certificate", c.File)
		c.write(row)
	}
	if r.CA != nil {
		row("CA", r.CA.File)
		r.CA.write(row)
	}
	if err := table.Flush(); err != nil || r.Trust == "" {
		return err
	}
	if r.Warning != "" {
		fmt.Fprintln(s.errOut, "warning:", r.Warning)
	}
	if r.closed {
		_, err := fmt.Fprintf(s.out, "\nFor each machine that is to trust the registry as %s: %s\n", r.Address, r.Trust)
		return err
	}
	_, err := fmt.Fprintf(s.out, "\nRun this on each machine that is to trust the registry as %s:\n\n%s\n", r.Address, r.Trust)
	return err
}

func (c *certificateInfo) write(row func(label, value string)) {
	row("  subject", c.Subject)
	if c.Issuer != c.Subject {
		row("  issuer", c.Issuer)
	}
	if len(c.Names) > 0 {
		row("  names", strings.Join(c.Names, ", "))
	}
	row("  valid", fmt.Sprintf("%s to %s (%s)", c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly), remaining(time.Until(c.NotAfter))))
	row("  fingerprint", c.Fingerprint)
	if c.Checksum != "" {
		row("  SHA-256 of ca.crt", c.Checksum)
	}
}

func remaining(left time.Duration) string {
	if left < 0 {
		return "EXPIRED"
	}
	return fmt.Sprintf("%d days left", left/(24*time.Hour))
}

// printJSON prints a value as people and jq read it. Lines for a shell keep their &&.
func (s streams) printJSON(value any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
