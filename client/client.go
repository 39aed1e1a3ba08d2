// Package client reads from and writes to any registry that speaks the OCI distribution API, for the commands that inspect
// and copy images and assemble indexes.
//
// What it returns was compared with its digest, but for ReadBlob. It reads at most 4 MiB of a manifest or config, and at most a
// thousand manifests for one report, whatever a registry says. It uses plain HTTP only where it is told to, and verifies every other
// connection. A login is sent only to the registry that it is for, and to the token server that this one names.
//
// It fails with a *Problem where a person can do something about it, and with what the network said elsewhere.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// Config says how registries are reached. With its zero value they are asked over HTTPS, verified by the system's CAs, without
// login, and a reference without a host is an error.
type Config struct {
	// Local is the registry of references without a host, or nil.
	Local *Local
	// CA is certificates in PEM that are believed besides the system's, by all registries.
	CA []byte
	// CertificateDirectories are searched as Docker does: one that holds a directory HOST:PORT with *.crt adds those CAs for
	// that registry, and a NAME.cert with its NAME.key identifies this client to it.
	CertificateDirectories []string
	// PlainHTTP reports whether a registry is asked without TLS. Nil means none is.
	PlainHTTP func(host string) bool
	// Login is for its host only, and comes before those that CredentialFiles hold.
	Login Login
	// Source is the registry that is copied from, if there is one, with its login if one was given: messages about that one are about
	// the flags --from-username and so on.
	Source Login
	// CredentialFiles are the configurations of docker login and podman login. They need not be there.
	CredentialFiles []string
	// Warn is called with the warnings of the registries, or is nil.
	Warn func(string)
}

// Login is a user's name and password.
type Login struct{ Host, Username, Password string }

// Local is the registry whose configuration and files are on this machine.
type Local struct {
	// Host is the HOST:PORT by which it is called, and Aliases are others for the same registry.
	Host    string
	Aliases []string
	// Dial is the HOST:PORT to connect to, where that is not Host.
	Dial string
	// CA is its own authority in PEM, or nil.
	CA        []byte
	PlainHTTP bool
}

func (l *Local) is(host string) bool {
	return l != nil && (host == l.Host || slices.Contains(l.Aliases, host))
}

// Client reaches registries. It is for one goroutine at a time; the repositories that it opens are for many.
type Client struct {
	config Config
	hosts  map[string]*host
}

// host is a registry. Its repositories share connections and tokens.
type host struct {
	name   string
	source bool   // it is copied from
	local  *Local // nil unless this is the local registry
	client remote.Client
	login  *logins
}

// New returns a client. Nothing is read or asked before a repository is opened.
func New(config Config) *Client {
	return &Client{config: config, hosts: map[string]*host{}}
}

// Repository is one repository of a registry.
type Repository struct {
	host   *host
	remote *remote.Repository
}

// Open returns the repository that a reference names, and the reference with its host. It asks nothing yet; it fails when files
// that it needs can't be read.
func (c *Client) Open(ref Reference) (*Repository, Reference, error) {
	if ref.Host == "" && c.config.Local == nil {
		return nil, ref, fmt.Errorf("%s names no registry: put HOST:PORT/ before it", ref)
	}
	if ref.Host == "" {
		ref.Host = c.config.Local.Host
	}
	h, err := c.host(ref.Host)
	if err != nil {
		return nil, ref, err
	}
	return &Repository{host: h, remote: &remote.Repository{
		Client:               h.client,
		Reference:            registry.Reference{Registry: ref.Host, Repository: ref.Repository},
		PlainHTTP:            c.plainHTTP(ref.Host),
		ManifestMediaTypes:   manifestTypes(),
		ReferrerListMaxPages: 1000,
		TagListPageSize:      tagsShown,
		TagListMaxPages:      1,
		SkipReferrersGC:      true, // a registry may not allow to delete
		HandleWarning: func(w remote.Warning) {
			if c.config.Warn != nil {
				c.config.Warn(w.Text)
			}
		},
	}}, ref, nil
}

func (c *Client) plainHTTP(host string) bool {
	return c.config.Local.is(host) && c.config.Local.PlainHTTP || c.config.PlainHTTP != nil && c.config.PlainHTTP(host)
}

func (c *Client) host(name string) (*host, error) {
	if known := c.hosts[name]; known != nil {
		return known, nil
	}
	transport, err := c.transport(name)
	if err != nil {
		return nil, err
	}
	h := &host{name: name, login: &logins{given: c.config.Login, files: c.config.CredentialFiles}}
	if name == c.config.Source.Host && (c.config.Source.Username != "" || name != c.config.Login.Host) {
		h.source, h.login.given = true, c.config.Source
	}
	if c.config.Local.is(name) {
		h.local, h.login.aliases = c.config.Local, append([]string{c.config.Local.Host}, c.config.Local.Aliases...)
	}
	client := &auth.Client{
		Client:     &http.Client{Transport: &retry.Transport{Base: transport, Policy: patience}},
		Cache:      auth.NewCache(),
		Credential: h.login.credential,
	}
	client.SetUserAgent("berth")
	h.client = client
	c.hosts[name] = h
	return h, nil
}

// patience is how long a registry is asked again that is busy or was cut off. One that has failed will fail again.
func patience() retry.Policy {
	hopeless := []int{http.StatusInternalServerError, http.StatusNotImplemented, http.StatusInsufficientStorage}
	return &retry.GenericPolicy{
		Retryable: func(answer *http.Response, err error) (bool, error) {
			if err == nil && slices.Contains(hopeless, answer.StatusCode) {
				return false, nil
			}
			return retry.DefaultPredicate(answer, err)
		},
		Backoff:  retry.DefaultBackoff,
		MinWait:  200 * time.Millisecond,
		MaxWait:  3 * time.Second,
		MaxRetry: 3,
	}
}

func (c *Client) transport(host string) (http.RoundTripper, error) {
	dialer := &net.Dialer{Timeout: 15 * time.Second}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   idleConnections,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute, // a registry may have to compute a digest first
		IdleConnTimeout:       time.Minute,
	}
	if l := c.config.Local; l.is(host) && l.Dial != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == host { // and not where its blobs are
				address = l.Dial
			}
			return dialer.DialContext(ctx, network, address)
		}
	}
	if c.plainHTTP(host) {
		return transport, nil
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	return encrypted{transport}, c.trust(host, transport.TLSClientConfig)
}

// encrypted refuses to ask without TLS: a registry that is asked with it may redirect to a place, on its own host even, where
// logins would go in the clear.
type encrypted struct{ http.RoundTripper }

func (e encrypted) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, problem(nil, "the registry redirects to %s://%s, which is without TLS: nothing was sent there", r.URL.Scheme, r.URL.Host)
	}
	return e.RoundTripper.RoundTrip(r)
}
