// Package trust serves what a machine needs to trust the registry's own CA: a page for people, the CA's certificate and a
// script that installs it. Anyone may read it; it knows nothing of the registry but that certificate.
//
// It guarantees that the script is the same bytes for everybody, that of a request nothing gets into an answer but a Host
// header that is an address by its form, and that nobody who does what Line says runs a byte as root that was not
// verified: Line carries the checksum of the CA's certificate, which vouches for the connection that the script comes
// through. It does not vouch for the page: whoever sits between it and its reader can change both, so the page asks its
// reader to compare the checksum with what the registry's machine says.
//
// Without a CA (the registry has a certificate from elsewhere, or none) the certificate is 404 and the page says why. Line
// and New don't fail: an address that is none becomes the words HOST:PORT.
package trust

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The paths under which New's handler answers.
const (
	pagePath        = "/trust"
	certificatePath = "/trust/ca.crt"
	scriptPath      = "/trust/install.sh"
)

var (
	//go:embed install.sh
	script []byte
	// The pages have {{NAME}} where fill puts something.
	//go:embed page.html
	page string
	//go:embed own.html
	own string
	//go:embed elsewhere.html
	elsewhere string
	//go:embed page.css
	style string
)

// Config says whose certificate it is about.
type Config struct {
	// CA is the certificate of the registry's own CA, as PEM. It is served as it stands. Nil, or something else than a
	// certificate, means that there is none.
	CA []byte
}

// New returns the handler for /trust and everything below it.
func New(c Config) http.Handler {
	h := &handler{policy: contentPolicy(style)}
	if ca := parse(c.CA); ca != nil {
		h.pem, h.ca = c.CA, ca
	}
	return h
}

type handler struct {
	policy string
	pem    []byte
	ca     *x509.Certificate // nil when there is none
}

// parse returns the certificate, or nil.
func parse(ca []byte) *x509.Certificate {
	block, _ := pem.Decode(ca)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return certificate
}

// contentPolicy allows the page its own style and nothing else.
func contentPolicy(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", h.policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	contentType, body := h.find(r)
	switch {
	case body == nil:
		http.Error(w, "not found", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	default:
		header.Set("Content-Type", contentType)
		header.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the client may be gone
	}
}

// find returns what is at a path, or no body.
func (h *handler) find(r *http.Request) (contentType string, body []byte) {
	switch r.URL.Path {
	case pagePath, pagePath + "/":
		return "text/html; charset=utf-8", h.render(r.Host)
	case certificatePath:
		return "application/x-x509-ca-cert", h.pem
	case scriptPath:
		return "text/x-shellscript; charset=utf-8", script
	}
	return "", nil
}

// render returns the page for a visitor who came by host.
func (h *handler) render(host string) []byte {
	content := elsewhere
	if h.ca != nil {
		content = h.renderOwn(host)
	}
	return []byte(strings.NewReplacer("{{Style}}", style, "{{Content}}", content).Replace(page))
}

// renderOwn returns what the page says of the registry's own CA.
func (h *handler) renderOwn(host string) string {
	address, ok := Address(host)
	unknown := ""
	if !ok {
		unknown = fill("<p>Put the registry’s address in the place of <code>{{Address}}</code>.</p>\n", "Address", address)
	}
	return fill(strings.Replace(own, "{{Unknown}}", unknown, 1),
		"Address", address,
		"Line", Line(address, h.pem),
		"Wget", wgetLine(address, h.pem),
		"Checksum", Checksum(h.pem),
		"Fingerprint", Fingerprint(h.ca),
		"Subject", h.ca.Subject.String(),
		"Expires", h.ca.NotAfter.UTC().Format(time.DateOnly),
		"Certificate", certificatePath,
		"Script", scriptPath)
}

// fill puts values, each after its name, into HTML: as text, or as an attribute in quotes. The package for templates would keep every method
// of every type in the program, which would be a third larger, since templates may call them by name.
func fill(text string, values ...string) string {
	pairs := make([]string, len(values))
	for i := 0; i < len(values); i += 2 {
		pairs[i], pairs[i+1] = "{{"+values[i]+"}}", html.EscapeString(values[i+1])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Checksum returns the SHA-256 of a file's content as sha256sum prints it.
func Checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Fingerprint returns the SHA-256 fingerprint of a certificate as openssl and browsers show it: 01:AB:….
func Fingerprint(certificate *x509.Certificate) string {
	digits := strings.ToUpper(Checksum(certificate.Raw))
	pairs := make([]string, 0, len(digits)/2)
	for i := 0; i < len(digits); i += 2 {
		pairs = append(pairs, digits[i:i+2])
	}
	return strings.Join(pairs, ":")
}
