package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestTrusted(t *testing.T) {
	r := newRegistry(t)
	r.config.System = r.ca.pool()
	r.config.CA, r.config.CAFile = []byte(r.ca.pem()), "ca.crt"
	compare(t, r.examine(),
		expectation{OK, "name", "registry.lan is 192.0.2.18", ""},
		expectation{OK, "tcp", "accepts connections", ""},
		expectation{OK, "tls", "speaks TLS 1.3", ""},
		expectation{OK, "certificate", "valid until", ""},
		expectation{OK, "certificate", "names registry.lan", ""},
		expectation{OK, "ca", "is from the CA in ca.crt", ""},
		expectation{OK, "system", "trusts", ""},
		expectation{OK, "clock", "agrees", ""},
		expectation{OK, "answer", "lets everybody in", ""})
}

func TestFindings(t *testing.T) {
	other := newCA(t, "another CA")
	for name, tt := range map[string]struct {
		change func(*registry)
		want   []expectation
	}{
		"unknown CA": {func(r *registry) { r.config.System = other.pool() },
			[]expectation{{Fail, "system", "unknown authority", "registry cert show"}}},
		"expired": {func(r *registry) {
			r.leaf.NotBefore, r.leaf.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour)
		}, []expectation{{Fail, "certificate", "expired on", "the registry's log"}, {OK, "system", "trusts", ""}}},
		"not yet valid": {func(r *registry) { r.leaf.NotBefore = time.Now().Add(time.Hour) },
			[]expectation{{Fail, "certificate", "not valid before", "Set the clock"}, {OK, "system", "trusts", ""}}},
		"expires soon": {func(r *registry) { r.leaf.NotAfter = time.Now().Add(time.Hour) },
			[]expectation{{Note, "certificate", "expires on", "the registry's log"}}},
		"wrong name": {func(r *registry) {
			r.leaf.DNSNames, r.leaf.IPAddresses = []string{"other.lan"}, []net.IP{net.IPv4(10, 0, 0, 5)}
		}, []expectation{{Fail, "certificate", "does not name registry.lan, only other.lan, 10.0.0.5", "http.tls.hosts"}}},
		"many names": {func(r *registry) {
			r.leaf.DNSNames = strings.Split("a b c d e f g h i j k l m n", " ")
		}, []expectation{{Fail, "certificate", "j, k, l and 2 more", ""}}},
		"a common name only": {func(r *registry) { r.leaf.DNSNames, r.leaf.Subject.CommonName = nil, "registry.lan" },
			[]expectation{{Fail, "certificate", "a common name does not count", "subject alternative name"}}},
		"another CA than expected": {func(r *registry) { r.config.CA, r.config.CAFile = []byte(other.pem()), "ca.crt" },
			[]expectation{{Fail, "ca", "not from the CA in ca.crt", "registry cert show"}}},
		"expected CA is none": {func(r *registry) { r.config.CA, r.config.CAFile = []byte("x"), "ca.crt" },
			[]expectation{{Fail, "ca", "ca.crt holds no certificate", "registry cert ca"}}},
		"plain HTTP": {func(r *registry) { r.plain = true },
			[]expectation{{Fail, "tls", "speaks plain HTTP", "REGISTRY_HTTP_TLS_MODE"}}},
		"only an old TLS": {func(r *registry) { r.tls.MinVersion, r.tls.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			[]expectation{{Fail, "tls", "refuses the handshake", "log"}}},
		"client certificate, TLS 1.3": {func(r *registry) { r.tls.ClientAuth = tls.RequireAnyClientCert },
			[]expectation{{Fail, "answer", "asks for a client's certificate", "client.cert"}}},
		"client certificate, TLS 1.2": {func(r *registry) {
			r.tls.ClientAuth, r.tls.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		}, []expectation{{Fail, "tls", "asks for a client's certificate", "client.cert"}}},
		"client certificate if there is one": {func(r *registry) { r.tls.ClientAuth = tls.RequestClientCert }, nil},
		"clock ahead": {func(r *registry) {
			r.handler = answer(200, "Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		}, []expectation{{Fail, "clock", "this machine is 1h0m", "set-ntp"}, {Fail, "clock", "ahead of the server's", ""}}},
		"clock behind": {func(r *registry) {
			r.handler = answer(200, "Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat))
		}, []expectation{{Fail, "clock", "behind the server's", "set-ntp"}}},
		"clocks 50 seconds apart": {func(r *registry) {
			r.handler = answer(200, "Date", time.Now().Add(-50*time.Second).UTC().Format(http.TimeFormat))
		}, []expectation{{OK, "clock", "agrees", ""}}},
		"no date": {func(r *registry) {
			r.handler = func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil; answer(200)(w, nil) }
		}, []expectation{{Note, "clock", "does not say", ""}}},
		"Basic": {func(r *registry) { r.handler = answer(401, "WWW-Authenticate", `Basic realm="x"`) },
			[]expectation{{OK, "answer", "(Basic)", ""}}},
		"Bearer": {func(r *registry) {
			r.handler = answer(401, "WWW-Authenticate", `bearer realm="https://tokens.lan/token",service="x"`)
		},
			[]expectation{{OK, "answer", "tokens (Bearer) from tokens.lan", ""}}},
		"Bearer, unknown to the system": {func(r *registry) {
			r.handler = answer(401, "WWW-Authenticate", `Bearer realm="https://registry.lan/token"`)
			r.config.System = other.pool()
			r.files["/etc/docker/certs.d/ADDRESS/ca.crt"] = "CA.PEM"
		}, []expectation{{Note, "tokens", "imagetools", "BUILDKIT_NO_CLIENT_TOKEN=1"}, {OK, "docker", "trusts", ""}, {Note, "system", "unknown authority", "SSL_CERT_FILE"}}},
		"Bearer in the clear": {func(r *registry) {
			r.handler = answer(401, "WWW-Authenticate", `Bearer realm="http://u:p@tokens.lan/token"`)
		},
			[]expectation{{Fail, "answer", "http://u:xxxxx@tokens.lan/token, where passwords would go in the clear", "X-Forwarded-Proto"}}},
		"Bearer without a realm": {func(r *registry) { r.handler = answer(401, "WWW-Authenticate", `Bearer service="x"`) },
			[]expectation{{Fail, "answer", "does not say where", ""}}},
		"unknown scheme":       {func(r *registry) { r.handler = answer(401, "WWW-Authenticate", "Negotiate") }, []expectation{{Fail, "answer", "negotiate", "Basic and Bearer"}}},
		"401 without a scheme": {func(r *registry) { r.handler = answer(401) }, []expectation{{Fail, "answer", "without WWW-Authenticate", "headers"}}},
		"a page for every path": {func(r *registry) {
			r.handler = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }
		}, []expectation{{Fail, "answer", "not a registry: its answer at /v2/ has no Docker-Distribution-Api-Version", "Check host and port"}}},
		"an empty answer": {func(r *registry) { r.handler = func(http.ResponseWriter, *http.Request) {} },
			[]expectation{{Fail, "answer", "not a registry", ""}}},
		"JSON alone": {func(r *registry) {
			r.handler = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}\n")) }
		}, []expectation{{OK, "answer", "lets everybody in", ""}}},
		"the header alone": {func(r *registry) { r.handler = answer(200) }, []expectation{{OK, "answer", "lets everybody in", ""}}},
		"silence after the handshake": {func(r *registry) {
			r.config.Timeout = time.Second
			r.handler = func(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() }
		}, []expectation{{Fail, "answer", "no answer to /v2/ within 1s", "log"}}},
		"expired before its CA began": {func(r *registry) {
			r.leaf.NotBefore, r.leaf.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, -1, 0)
			r.config.CA, r.config.CAFile = []byte(r.ca.pem()), "ca.crt"
			r.files["/etc/docker/certs.d/ADDRESS/ca.crt"] = "CA.PEM"
		}, []expectation{{Fail, "certificate", "expired on", ""}, {OK, "ca", "is from the CA", ""}, {OK, "system", "trusts the CA of", ""},
			{OK, "docker", "trusts the CA of", ""}}},
		"expired after its CA": {func(r *registry) {
			r.ca = sign(r.t, &x509.Certificate{Subject: r.ca.certificate.Subject, IsCA: true, BasicConstraintsValid: true,
				KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(0, -1, 0)}, nil)
			r.config.System, r.config.CA, r.config.CAFile = r.ca.pool(), []byte(r.ca.pem()), "ca.crt"
			r.leaf.NotBefore, r.leaf.NotAfter = time.Now().AddDate(-1, -1, 0), time.Now().AddDate(0, 0, -1)
		}, []expectation{{Fail, "certificate", "expired on", ""}, {OK, "ca", "is from the CA", ""}, {OK, "system", "trusts the CA of", ""}}},
		"expired, and from another CA": {func(r *registry) {
			r.leaf.NotBefore, r.leaf.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, -1, 0)
			r.config.CA, r.config.CAFile, r.config.System = []byte(other.pem()), "ca.crt", other.pool()
		}, []expectation{{Fail, "certificate", "expired on", ""}, {Fail, "ca", "unknown authority", ""}, {Fail, "system", "unknown authority", ""}}},
		"another service":            {func(r *registry) { r.handler = answer(404) }, []expectation{{Fail, "answer", "404", "/v2/"}}},
		"a redirect":                 {func(r *registry) { r.handler = answer(308, "Location", "https://x/v2/") }, []expectation{{Fail, "answer", `"https://x/v2/"`, ""}}},
		"a proxy without a registry": {func(r *registry) { r.handler = answer(502) }, []expectation{{Fail, "answer", "502 Bad Gateway", "log"}}},
		"forbidden":                  {func(r *registry) { r.handler = answer(403) }, []expectation{{Fail, "answer", "403 Forbidden", ""}}},
		"no answer": {func(r *registry) {
			r.handler = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, []expectation{{Fail, "answer", "does not answer /v2/", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.config.System = r.ca.pool()
			tt.change(r)
			compare(t, r.examine(), tt.want...)
		})
	}
}

func TestURLs(t *testing.T) {
	for address, want := range map[string]string{
		"http://registry.lan:5000":   "the scheme is http",
		"ftp://registry.lan:5000":    "the scheme is not https",
		"user:secret@a:1":            "credentials",
		"a:x":                        "not a URL",
		"a/library":                  "goes on after the port",
		"":                           "host or port is not valid",
		"https://":                   "host or port is not valid",
		"https://user:secret@a:1":    "credentials",
		"https://a:1/library":        "goes on after the port",
		"https://a:1/?q":             "goes on after the port",
		"https://a:1/#f":             "goes on after the port",
		"https://a:0":                "host or port is not valid",
		"https://a:65536":            "host or port is not valid",
		"https://a:x":                "not a URL",
		"https://-a:1":               "host or port is not valid",
		"https://..:1":               "host or port is not valid",
		"https://a..b:1":             "host or port is not valid",
		"https://%2e%2e:1":           "not ",
		"https://a%2fb:1":            "not a URL",
		"https://[fe80::1%25eth0]:1": "not ",
		"https://a b:1":              "not a URL",
		"https://ä:1":                "not ",
		"https://a\n:1":              "not a URL",
	} {
		got := Run(t.Context(), address, Config{Root: t.TempDir(), System: x509.NewCertPool()})
		compare(t, got, expectation{Fail, "url", want, ""})
		if len(got) != 1 || strings.Contains(got[0].Detail+got[0].Remedy, "secret") {
			t.Errorf("%q: %v", address, got)
		}
	}
}

// https:// is what people leave out.
func TestURLWithoutScheme(t *testing.T) {
	r := newRegistry(t)
	r.config.System = r.ca.pool()
	r.start()
	r.config.Root = r.root
	compare(t, Run(t.Context(), r.address, r.config), expectation{OK, "answer", "lets everybody in", ""})
	compare(t, Run(t.Context(), "192.0.2.18:1", Config{Root: t.TempDir(), System: r.ca.pool(), dial: r.config.dial}),
		expectation{Fail, "tcp", "192.0.2.18:1 can't be reached", ""})
}

// What a server says reaches the terminal as text only.
func TestFindingsArePrintable(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	r := newRegistry(t)
	leaf := sign(t, &x509.Certificate{DNSNames: []string{"registry.lan"}}, &r.ca)
	secure := tls.NewListener(server, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.certificate.Raw}, PrivateKey: leaf.key}}})
	go func() {
		if conn, err := secure.Accept(); err == nil {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1<<10))
			_, _ = conn.Write([]byte("HTTP/1.1 503 \x1b[2J\u202e\xff" + strings.Repeat("x", 5000) + "\r\nContent-Length: 0\r\n\r\n"))
		}
	}()
	r.config.System, r.config.Root = r.ca.pool(), r.root
	_, port, _ := net.SplitHostPort(server.Addr().String())
	got := Run(t.Context(), "https://registry.lan:"+port, r.config)
	compare(t, got, expectation{Fail, "answer", `the server answers 503 \x1b[2J\u202e` + "\uFFFDxxx", "log"})
	for _, f := range got {
		if len(f.Detail) > maxText+10 || strings.ContainsFunc(f.Detail+f.Remedy, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not to be printed: %q", f)
		}
	}
}

func TestNetwork(t *testing.T) {
	t.Run("unknown name", func(t *testing.T) {
		r := newRegistry(t)
		compare(t, Run(t.Context(), "https://nowhere.lan:5000", r.config), expectation{Fail, "name", "nowhere.lan is not known here", "/etc/hosts"})
	})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	t.Run("nothing listens", func(t *testing.T) {
		compare(t, Run(t.Context(), "https://"+closed.Addr().String(), Config{Root: t.TempDir(), System: x509.NewCertPool()}),
			expectation{Fail, "tcp", closed.Addr().String() + " can't be reached: connection refused", "Check that the registry runs"})
	})
	t.Run("one of two addresses", func(t *testing.T) {
		r := newRegistry(t)
		r.config.System = r.ca.pool()
		r.config.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}, nil
		}
		compare(t, r.examine(), expectation{Note, "tcp", "127.0.0.2:", "port"}, expectation{OK, "tcp", "127.0.0.1:", ""}, expectation{OK, "answer", "", ""})
	})
	t.Run("a server that says nothing", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		compare(t, Run(t.Context(), "https://"+silent.Addr().String(), Config{Root: t.TempDir(), System: x509.NewCertPool(), Timeout: 50 * time.Millisecond}),
			expectation{Fail, "tls", "no answer within 50ms", "registry"})
	})
	t.Run("another service", func(t *testing.T) {
		server, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			if conn, err := server.Accept(); err == nil {
				_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
				conn.Close()
			}
		}()
		compare(t, Run(t.Context(), "https://"+server.Addr().String(), Config{Root: t.TempDir(), System: x509.NewCertPool()}),
			expectation{Fail, "tls", "does not speak TLS", "another service"})
	})
	t.Run("cancelled", func(t *testing.T) {
		r := newRegistry(t)
		r.start()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		compare(t, Run(ctx, "https://"+r.address, r.config), expectation{Fail, "tcp", "operation was canceled", ""})
	})
}

// What is asked has no credentials, and asks for /v2/ once.
func TestRequest(t *testing.T) {
	var requests []*http.Request
	r := newRegistry(t)
	r.handler = func(w http.ResponseWriter, request *http.Request) {
		requests = append(requests, request)
		answer(401, "WWW-Authenticate", "Basic")(w, request)
	}
	r.examine()
	if len(requests) != 1 || requests[0].URL.Path != "/v2/" || requests[0].Host != r.address || requests[0].Header.Get("Authorization") != "" || requests[0].Header.Get("Cookie") != "" {
		t.Errorf("it asked %v", requests)
	}
}

// The zero Config looks at this machine, and ends.
func TestZeroConfig(t *testing.T) {
	r := newRegistry(t)
	r.leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	r.start()
	got := Run(t.Context(), "https://127.0.0.1"+strings.TrimPrefix(r.address, "registry.lan"), Config{})
	if !slices.ContainsFunc(got, func(f Finding) bool { return f.Check == "system" && f.Status != OK && f.Remedy != "" }) {
		t.Errorf("a CA that was just made is not unknown: %v", got)
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://a:1", "https://[::1]:5000", "http://a", "https://a/../b", "https://%2e%2e/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := &examination{}
		if !e.parse(s) {
			if !Failed(e.findings) {
				t.Errorf("%q is refused without a finding", s)
			}
			return
		}
		if strings.ContainsAny(e.name, "/\\ \n\x00") || strings.Contains(e.name, "..") || e.name == "" {
			t.Errorf("%q is %q", s, e.name)
		}
	})
}
