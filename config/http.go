package config

import "time"

// HTTP says where and how the registry is served.
type HTTP struct {
	// Net is the kind of Addr: tcp, or unix for the path of a socket.
	Net string `yaml:"net" oneof:"tcp unix"`
	// Addr is where the server listens: HOST:PORT or a path.
	Addr string `yaml:"addr"`
	// Host is the absolute URL under which clients reach the registry; empty when unknown.
	Host string `yaml:"host,omitempty"`
	// Prefix is the path under which /v2/ is served, with a slash at either end; empty means the root.
	Prefix string `yaml:"prefix,omitempty"`
	// RelativeURLs is whether Location is a path, which clients resolve against the address that they use: true when it is not set
	// (distribution's default is false). False begins it with the request's own scheme and host. Where Host is set, it begins with that.
	RelativeURLs *bool `yaml:"relativeurls,omitempty"`
	// DrainTimeout is how long a stopping server waits for its requests.
	DrainTimeout time.Duration `yaml:"draintimeout"`
	// Headers are added to every answer.
	Headers Headers `yaml:"headers,omitempty"`
	// TrustedProxies are the networks whose X-Forwarded-For is believed, and the PROXY header (versions 1 and 2) with which a connection
	// from there may begin. Don't list a balancer that passes connections on without adding that header: its clients could send their own.
	TrustedProxies []Network `yaml:"trustedproxies,omitempty"`
	TLS            TLS       `yaml:"tls"`
	HTTP2          HTTP2     `yaml:"http2"`
	H2C            H2C       `yaml:"h2c,omitempty"`
	Debug          Debug     `yaml:"debug,omitempty"`
}

// Debug is about a port of its own for those who run the registry: profiles, for this machine only, and metrics. It has neither
// TLS nor passwords.
type Debug struct {
	// Addr is HOST:PORT. Empty opens no such port.
	Addr       string     `yaml:"addr,omitempty"`
	Prometheus Prometheus `yaml:"prometheus,omitempty"`
}

// Prometheus is about metrics in its format, on the port of Debug.
type Prometheus struct {
	// Enabled serves them.
	Enabled bool `yaml:"enabled,omitempty"`
	// Path is where they are; /metrics when it is empty.
	Path string `yaml:"path,omitempty"`
}

// Headers maps names of HTTP headers, in any case, to their values.
type Headers map[string][]string

// HTTP2 is about HTTP/2 over TLS.
type HTTP2 struct {
	// Disabled is true unless the file says otherwise: large blobs take half as much processor time again over HTTP/2, whose frames are as
	// small as the client says, and docker, containerd, BuildKit and podman never ask for it.
	Disabled bool `yaml:"disabled"`
}

// H2C is about HTTP/2 without TLS.
type H2C struct {
	// Enabled allows it, where the mode of TLS is off.
	Enabled bool `yaml:"enabled,omitempty"`
}

// The values of TLS.Mode.
const (
	TLSAuto  = "auto"  // a certificate of the registry's own CA
	TLSFiles = "files" // TLS.Certificate and TLS.Key
	TLSACME  = "acme"  // certificates of an ACME server, as TLS.LetsEncrypt says
	TLSOff   = "off"   // plain HTTP
)

// TLS says how connections are secured.
type TLS struct {
	// Mode is auto for a certificate of the registry's own CA, files for one that is given, acme for those of an ACME server, and off for
	// plain HTTP. Without it, it is files where Certificate or Key is set, acme where something of LetsEncrypt is, and else auto.
	Mode string `yaml:"mode" oneof:"auto files acme off"`
	// Certificate is the path of a PEM file with the certificate and those between it and its CA, for the mode files.
	Certificate string `yaml:"certificate,omitempty"`
	// Key is the path of a PEM file with the certificate's key.
	Key string `yaml:"key,omitempty"`
	// Hosts are the names and addresses that an automatic certificate is made for, besides those that the registry
	// finds by itself.
	Hosts []string `yaml:"hosts,omitempty"`
	// Learn adds the names and private addresses that clients nearby use to an automatic certificate.
	Learn bool `yaml:"learn"`
	// Auto is the CA of automatic certificates. When it is empty the registry makes one.
	Auto Authority `yaml:"auto,omitempty"`
	// LetsEncrypt says how certificates come from an ACME server, for the mode acme.
	LetsEncrypt LetsEncrypt `yaml:"letsencrypt,omitempty"`
	// ClientCAs are paths of PEM files with the CAs of clients' certificates; empty means that clients need none.
	ClientCAs []string `yaml:"clientcas,omitempty"`
	// ClientAuth says what is asked of clients when there are ClientCAs. Empty means require-and-verify-client-cert.
	ClientAuth string `yaml:"clientauth,omitempty" oneof:"request-client-cert require-any-client-cert verify-client-cert-if-given require-and-verify-client-cert"`
	// MinimumTLS is the oldest protocol version that is spoken.
	MinimumTLS string `yaml:"minimumtls" oneof:"tls1.2 tls1.3"`
	// CipherSuites are names of crypto/tls, for TLS 1.2 only; empty means Go's choice.
	CipherSuites []string `yaml:"ciphersuites,omitempty"`
}

// Authority is a CA, as paths of PEM files: both are set, or none.
type Authority struct {
	// Directory is where the registry keeps its CA and the certificate; several may share one. Empty means tls in the data
	// directory.
	Directory string `yaml:"directory,omitempty"`
	// Certificate is the path of a PEM file with the certificate of a CA, which signs in place of one that the registry makes.
	Certificate string `yaml:"certificate,omitempty"`
	// Key is the path of a PEM file with that CA's key.
	Key string `yaml:"key,omitempty"`
}

// LetsEncrypt says how certificates come from an ACME server.
type LetsEncrypt struct {
	// CacheFile is the directory, in spite of its name, of account and certificates; empty means tls/acme in the data directory.
	CacheFile string `yaml:"cachefile,omitempty"`
	// Email is where the ACME server writes to about the account.
	Email string `yaml:"email,omitempty"`
	// Hosts are the names to get certificates for.
	Hosts []string `yaml:"hosts,omitempty"`
	// DirectoryURL is the ACME server; empty means that of letsencrypt.org.
	DirectoryURL string `yaml:"directoryurl,omitempty"`
}

func (e LetsEncrypt) given() bool {
	return e.CacheFile+e.Email+e.DirectoryURL != "" || len(e.Hosts) > 0
}

// defaultMode is the mode that the other keys ask for.
func (t TLS) defaultMode() string {
	switch {
	case t.Certificate != "" || t.Key != "":
		return TLSFiles
	case t.LetsEncrypt.given():
		return TLSACME
	}
	return TLSAuto
}
