package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"berth/client"
	"berth/config"

	"github.com/spf13/cobra"
)

// remoteFlags say how commands that use the API of a registry, this one or another, reach it.
type remoteFlags struct {
	config, ca, username     string
	passwordStdin, plainHTTP bool
	// These have flags only where something is copied.
	from, fromUsername               string
	fromPasswordStdin, fromPlainHTTP bool
}

func (f *remoteFlags) add(command *cobra.Command) { f.addFor(command, "the registry of REPO:TAG") }

// addFor adds the flags, for a command that calls its registry by these words.
func (f *remoteFlags) addFor(command *cobra.Command, target string) {
	flags := command.Flags()
	flags.StringVar(&f.config, "config", "", "the configuration of the local registry, for references without HOST:PORT")
	flags.StringVar(&f.ca, "ca", "", "file with a CA that is believed besides those that this machine trusts, as PEM")
	flags.BoolVar(&f.plainHTTP, "plain-http", false, "ask "+target+" without TLS")
	flags.StringVarP(&f.username, "username", "u", "", "log in to "+target+" as this user, in place of a stored login")
	flags.BoolVar(&f.passwordStdin, "password-stdin", false, "read that user's password from standard input")
	command.MarkFlagsRequiredTogether("username", "password-stdin")
}

// remoteHelp is about references and logins, for the help of commands that have these flags.
const remoteHelp = `A reference is [HOST:PORT/]REPO[:TAG][@DIGEST]. Without HOST:PORT it is about the registry of this machine, at the
address that its configuration says. As in docker, what stands before the first slash is a host when it has a dot or a colon, or
is localhost.

Certificates are verified by the system's CAs, by those that the trust line installed in certs.d, and by --ca; for the registry
of this machine also by its own CA, where this user may read it. Logins are those of docker login and podman login.`

// client returns what asks registries, for a command about target.
func (s streams) client(f *remoteFlags, target client.Reference) (*client.Client, error) {
	local, err := s.localRegistry(f.config)
	if err != nil && (target.Host == "" || f.config != "") {
		return nil, fmt.Errorf("find the registry of this machine: %w", err)
	}
	err = nil // it is not needed
	c := client.Config{
		Local:                  local,
		CertificateDirectories: s.certificateDirectories(),
		CredentialFiles:        s.credentialFiles(),
		Warn:                   func(text string) { fmt.Fprintln(s.errOut, "warning:", printable(text)) },
	}
	host := target.Host
	if host == "" {
		host = local.Host
	}
	c.PlainHTTP = func(asked string) bool {
		if asked == host {
			return f.plainHTTP
		}
		return f.fromPlainHTTP
	}
	c.Source.Host = f.from
	if f.ca != "" {
		if c.CA, err = os.ReadFile(f.ca); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	}
	if f.passwordStdin {
		c.Login, err = s.login(host, f.username, "--password-stdin")
	}
	if f.fromPasswordStdin {
		c.Source, err = s.login(f.from, f.fromUsername, "--from-password-stdin")
	}
	if err != nil {
		return nil, err
	}
	return client.New(c), nil
}

// login reads the password of a user of a registry from standard input, as a flag says.
func (s streams) login(host, username, flag string) (client.Login, error) {
	password, err := s.password(&userFlags{stdin: true}, username)
	if err == nil && len(password) == 0 {
		err = fmt.Errorf("%s: there is no password on standard input", flag)
	}
	return client.Login{Host: host, Username: username, Password: string(password)}, err
}

// localRegistry finds the registry of this machine from its configuration.
func (s streams) localRegistry(file string) (*client.Local, error) {
	var args []string
	if file != "" {
		args = []string{file}
	}
	c, directory, err := s.tlsDirectory(args)
	if err != nil {
		return nil, err
	}
	if c.HTTP.Net == "unix" && c.HTTP.Host == "" {
		return nil, fmt.Errorf("it listens on the socket %s: put HOST:PORT/ before the repository, or set http.host", c.HTTP.Addr)
	}
	local := &client.Local{Host: trustAddress(c.HTTP), PlainHTTP: c.HTTP.TLS.Mode == config.TLSOff}
	if u, err := url.Parse(c.HTTP.Host); err == nil && u.Host != "" {
		local.PlainHTTP = u.Scheme == "http"
	} else {
		local.Dial, local.Aliases = loopback(c.HTTP.Addr, local.Host)
	}
	if c.HTTP.TLS.Mode == config.TLSAuto {
		// Another user may not be allowed to read it: that the CA is unknown, and what to do, is said when it is asked.
		local.CA, _ = os.ReadFile(cmp.Or(c.HTTP.TLS.Auto.Certificate, filepath.Join(directory, "ca.pem")))
	}
	return local, nil
}

// loopback returns where on this machine a registry answers that listens on all addresses, and, for one that listens on a
// loopback address too or only, by which names it is called there besides host.
func loopback(addr, host string) (dial string, aliases []string) {
	listens, _, err := net.SplitHostPort(addr)
	_, port, hostErr := net.SplitHostPort(host)
	if err != nil || hostErr != nil {
		return "", nil
	}
	ip, err := netip.ParseAddr(listens)
	everywhere := listens == "" || err == nil && ip.IsUnspecified()
	if !everywhere && listens != "localhost" && !ip.IsLoopback() {
		return "", nil
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		aliases = append(aliases, net.JoinHostPort(name, port))
	}
	if everywhere {
		dial = aliases[0]
	}
	return dial, aliases
}

// certificateDirectories are those into which the trust line installs CAs, those of the user first.
func (s streams) certificateDirectories() []string {
	root := filepath.Join("/", variable(s.environ, "DESTDIR"))
	var directories []string
	if home := s.userHome(); home != "" {
		directories = []string{filepath.Join(root, home, ".config/containers/certs.d"), filepath.Join(root, home, ".config/docker/certs.d")}
	}
	return append(directories, filepath.Join(root, "etc/containers/certs.d"), filepath.Join(root, "etc/docker/certs.d"))
}

// credentialFiles are where docker login and podman login store what they are told.
func (s streams) credentialFiles() []string {
	home := s.userHome()
	all := []string{
		variable(s.environ, "REGISTRY_AUTH_FILE"),
		under(cmp.Or(variable(s.environ, "DOCKER_CONFIG"), under(home, ".docker")), "config.json"),
		under(variable(s.environ, "XDG_RUNTIME_DIR"), "containers/auth.json"),
		under(home, ".config/containers/auth.json"),
	}
	var files []string
	for _, file := range all {
		if file != "" {
			files = append(files, file)
		}
	}
	return files
}

// under returns a path below a directory, or nothing below none.
func under(directory, path string) string {
	if directory == "" {
		return ""
	}
	return filepath.Join(directory, path)
}

// printable replaces what a registry could harm a terminal with.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
