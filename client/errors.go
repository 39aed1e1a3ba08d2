package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Problem is an error that says what to do about it.
type Problem struct {
	// Message is for the one who gave the command. It holds no secrets.
	Message string
	err     error
}

// Error returns the message.
func (p *Problem) Error() string { return p.Message }

// Unwrap returns what the problem was found by, or nil.
func (p *Problem) Unwrap() error { return p.err }

func problem(err error, format string, args ...any) error {
	return &Problem{Message: fmt.Sprintf(format, args...), err: err}
}

// explain says what an error of a registry means, and what to do.
func (r *Repository) explain(err error) error {
	if _, known := errors.AsType[*Problem](err); err == nil || known {
		return err
	}
	if answer, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return r.explainAnswer(answer, err)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return r.loginProblem(err)
	}
	if p := r.host.explainTLS(err); p != nil {
		return p
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return r.host.explainConnection(err)
	}
	return fmt.Errorf("%s/%s: %w", r.host.name, r.name(), err)
}

// explainTLS returns nil for errors that are not about certificates.
func (h *host) explainTLS(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return problem(err, "%s has a certificate from a CA that this machine does not know. If it is Berth's own: "+
			"`registry cert show --address %s` on the registry's machine prints the line that makes this one trust it. "+
			"For one command, name the CA's file with --ca", h.name, h.name)
	}
	if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
		names := append([]string{}, wrong.Certificate.DNSNames...)
		for _, ip := range wrong.Certificate.IPAddresses {
			names = append(names, ip.String())
		}
		return problem(err, "the certificate of %s does not name it, only %s: call the registry by such a name, or have this one "+
			"added (for Berth's own certificate, in http.tls.hosts)", h.name, strings.Join(names, ", "))
	}
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		return problem(err, "the certificate of %s has expired, or is not valid yet: compare this machine's clock with the "+
			"registry's", h.name)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return problem(err, "%s speaks plain HTTP: if that is meant to be, add --plain-http, or --from-plain-http where it is "+
			"copied from", h.name)
	}
	return nil
}

func (h *host) explainConnection(err error) error {
	opError, ok := errors.AsType[*net.OpError](err)
	if !ok || opError.Op != "dial" {
		return fmt.Errorf("ask %s: %w", h.name, err)
	}
	if h.local != nil {
		return problem(err, "the registry of this machine does not answer on %s: start it, name its configuration with --config, "+
			"or put HOST:PORT/ before the repository to ask another (%v)", h.name, opError)
	}
	return problem(err, "no registry answers on %s: %v", h.name, opError)
}

func (r *Repository) explainAnswer(answer *errcode.ErrorResponse, err error) error {
	said := http.StatusText(answer.StatusCode)
	if len(answer.Errors) > 0 {
		said = answer.Errors.Error()
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		return r.loginProblem(err)
	case http.StatusForbidden, http.StatusConflict:
		return problem(err, "%s refused it: %s", r.host.name, said)
	}
	return problem(err, "%s answered %d: %s", r.host.name, answer.StatusCode, said)
}

func (r *Repository) loginProblem(err error) error {
	prefix := ""
	if r.host.source {
		prefix = "from-"
	}
	login := fmt.Sprintf("`docker login %s`, or give --%susername NAME and the password with --%[2]spassword-stdin", r.host.name, prefix)
	if user := r.host.login.sent.Load(); user != nil {
		return problem(err, "%s did not accept the login of %q, or it does not allow this: log in again with %s", r.host.name, *user, login)
	}
	return problem(err, "%s wants a login: %s", r.host.name, login)
}

// notFound says what is missing where a reference leads nowhere, and what tags there are.
func (r *Repository) notFound(ctx context.Context, ref Reference, err error) error {
	if ref.Digest != "" {
		return problem(err, "%s/%s has no manifest %s", ref.Host, ref.Repository, ref.Digest)
	}
	var tags []string
	listErr := r.remote.Tags(ctx, "", func(page []string) error { tags = page; return nil })
	answer, ok := errors.AsType[*errcode.ErrorResponse](listErr)
	switch {
	case ok && answer.StatusCode == http.StatusNotFound:
		return problem(err, "%s has no repository %s", ref.Host, ref.Repository)
	case len(tags) == 0:
		return problem(err, "%s/%s has no tag %s", ref.Host, ref.Repository, ref.Tag)
	}
	return problem(err, "%s/%s has no tag %s; it has %s", ref.Host, ref.Repository, ref.Tag, enumerate(tags))
}

// tagsShown is how many tags a message lists.
const tagsShown = 10

// enumerate joins at most tagsShown, and says when there are more.
func enumerate(tags []string) string {
	if len(tags) >= tagsShown {
		return strings.Join(tags[:tagsShown], ", ") + " and maybe more"
	}
	return strings.Join(tags, ", ")
}

func isNotFound(err error) bool { return errors.Is(err, errdef.ErrNotFound) }

// isAnswer reports whether a registry refused with a status.
func isAnswer(err error, status int) bool {
	answer, ok := errors.AsType[*errcode.ErrorResponse](err)
	return ok && answer.StatusCode == status
}

// isCode reports whether a registry refused with a code.
func isCode(err error, code string) bool {
	answer, ok := errors.AsType[*errcode.ErrorResponse](err)
	return ok && slices.ContainsFunc(answer.Errors, func(e errcode.Error) bool { return e.Code == code })
}

func isNetwork(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok
}
