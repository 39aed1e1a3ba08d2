package tls

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"testing"
)

// TestClientCertificates is a table of what is asked of clients, and who gets in.
func TestClientCertificates(t *testing.T) {
	caCertificate, caKey := writePair(t, authorityTemplate())
	ca, err := parseAuthority(read(t, caCertificate), read(t, caKey))
	if err != nil {
		t.Fatal(err)
	}
	user := template{Certificate: x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}}
	stranger := loadUser(t, user)
	user.parent = ca
	known := loadUser(t, user)
	otherCA, _ := writePair(t, authorityTemplate())
	for _, test := range []struct {
		auth                   string
		none, stranger, friend bool
	}{
		{"", false, false, true},
		{"require-and-verify-client-cert", false, false, true},
		{"verify-client-cert-if-given", true, false, true},
		{"require-any-client-cert", false, true, true},
		{"request-client-cert", true, true, true},
	} {
		source := open(t, Config{Directory: t.TempDir(), ClientCAs: []string{otherCA, caCertificate}, ClientAuth: test.auth})
		address := serve(t, with(source))
		for who, want := range map[string]struct {
			pair *tls.Certificate
			ok   bool
		}{"none": {nil, test.none}, "stranger": {&stranger, test.stranger}, "friend": {&known, test.friend}} {
			settings := trusting(t, source.CA())
			// Whatever the server says whose certificates it takes.
			settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if want.pair == nil {
					return &tls.Certificate{}, nil
				}
				return want.pair, nil
			}
			response, err := client(t, settings, address, true).Get("https://localhost/")
			if err == nil {
				response.Body.Close()
			}
			if ok := err == nil && response.StatusCode == http.StatusOK; ok != want.ok {
				t.Errorf("%q, %s: accepted %t, %v", test.auth, who, ok, err)
			}
		}
	}
}

func loadUser(t *testing.T, tpl template) tls.Certificate {
	t.Helper()
	certificate, key := writePair(t, tpl)
	return loadPair(t, certificate, key)
}

// TestChallengeNeedsNoClientCertificate plays an ACME server that proves a name of a registry with client certificates. It
// gets through the handshake, and no further.
func TestChallengeNeedsNoClientCertificate(t *testing.T) {
	caCertificate, _ := writePair(t, authorityTemplate())
	source := open(t, Config{Directory: t.TempDir(), ClientCAs: []string{caCertificate}})
	answerChallenges(source.Config())
	address := serve(t, with(source))
	settings := trusting(t, source.CA())
	settings.ServerName = "localhost"
	settings.NextProtos = []string{"acme-tls/1"}
	conn, err := tls.Dial("tcp", address, settings)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if protocol := conn.ConnectionState().NegotiatedProtocol; protocol != "acme-tls/1" {
		t.Errorf("the protocol is %q", protocol)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Log(err) // the server may be faster
	}
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		response.Body.Close()
		t.Errorf("got %d", response.StatusCode)
	}
	for _, protocols := range [][]string{nil, {"http/1.1"}, {"acme-tls/1", "http/1.1"}} {
		settings.NextProtos = protocols
		conn, err := tls.Dial("tcp", address, settings)
		if err != nil {
			continue
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("a client of %v without a certificate got in", protocols)
		}
		conn.Close()
	}
}
