package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Deleted says what was deleted.
type Deleted struct {
	// Reference names it.
	Reference string `json:"reference"`
	// Tags and Manifests are how many a repository had.
	Tags      int `json:"tags,omitempty"`
	Manifests int `json:"manifests,omitempty"`
	// Restorable is until when it can be restored, and SpaceFree when its space is free at the latest; nil where the registry does
	// not say.
	Restorable *time.Time `json:"restorable,omitempty"`
	SpaceFree  *time.Time `json:"spaceFree,omitempty"`
}

// Delete deletes the tag that ref names, or, where it has a digest, the manifest with its tags. With now, a Berth keeps nothing of it
// in its trash.
func (c *Client) Delete(ctx context.Context, ref Reference, now bool) (Deleted, error) {
	r, ref, err := c.Open(ref)
	if err != nil {
		return Deleted{}, err
	}
	answer, err := r.ask(ctx, http.MethodDelete, r.name()+"/manifests/"+ref.at()+nowQuery(now), nil, nil)
	if isAnswer(err, http.StatusNotFound) {
		err = r.notFound(ctx, ref, err)
	}
	return deleted(ref.String(), answer), r.explain(err)
}

// DeleteRepository deletes all that is in the repository of ref, which has to be one of a Berth.
func (c *Client) DeleteRepository(ctx context.Context, ref Reference, now bool) (Deleted, error) {
	r, ref, err := c.Open(ref)
	if err != nil {
		return Deleted{}, err
	}
	var counts struct{ Tags, Manifests int }
	answer, err := r.ask(ctx, http.MethodDelete, "_berth/repositories/"+r.name()+nowQuery(now), nil, &counts)
	d := deleted(ref.Host+"/"+ref.Repository, answer)
	d.Tags, d.Manifests = counts.Tags, counts.Manifests
	return d, r.explain(err)
}

func nowQuery(now bool) string {
	if now {
		return "?now=true"
	}
	return ""
}

func deleted(reference string, answer http.Header) Deleted {
	at := func(name string) *time.Time {
		t, err := time.Parse(time.RFC3339, answer.Get(name))
		if err != nil {
			return nil // another registry
		}
		return &t
	}
	return Deleted{Reference: reference, Restorable: at("Berth-Restorable-Until"), SpaceFree: at("Berth-Space-Free-By")}
}

// TagState is what a tag points to, or pointed to for some time.
type TagState struct {
	Digest digest.Digest `json:"digest"`
	Set    time.Time     `json:"set"`
	// SetBy and EndedBy are empty where the registry does not tell this client.
	SetBy string `json:"setBy,omitempty"`
	// Ended is nil for what the tag points to now.
	Ended   *time.Time `json:"ended,omitempty"`
	EndedBy string     `json:"endedBy,omitempty"`
	Deleted bool       `json:"deleted,omitempty"`
	// Kept reports whether the tag can be restored to it.
	Kept bool `json:"kept"`
}

// TagHistory returns what the tag that ref names points to and pointed to, the newest first. The registry has to be a Berth.
func (c *Client) TagHistory(ctx context.Context, ref Reference) ([]TagState, error) {
	r, ref, err := c.Open(ref)
	if err != nil {
		return nil, err
	}
	var history struct{ States []TagState }
	_, err = r.ask(ctx, http.MethodGet, r.tagPath(ref), nil, &history)
	return history.States, r.explain(err)
}

// RestoreTag points the tag that ref names at a manifest again, or, where to is empty, at what it pointed to at a time, and returns the
// digest. The registry has to be a Berth.
func (c *Client) RestoreTag(ctx context.Context, ref Reference, to digest.Digest, before time.Time) (digest.Digest, error) {
	r, ref, err := c.Open(ref)
	if err != nil {
		return "", err
	}
	asked := map[string]any{"digest": to}
	if to == "" {
		asked = map[string]any{"before": before.UTC().Format(time.RFC3339Nano)}
	}
	answer, err := r.ask(ctx, http.MethodPost, r.tagPath(ref), asked, nil)
	return digest.Digest(answer.Get("Docker-Content-Digest")), r.explain(err)
}

func (r *Repository) tagPath(ref Reference) string {
	return "_berth/tags/" + r.name() + "/" + url.PathEscape(ref.Tag)
}

// ask sends a request for a path below /v2/, and reads the answer's JSON into result unless that is nil. It fails with an
// errcode.ErrorResponse when the registry refuses.
func (r *Repository) ask(ctx context.Context, method, path string, question, result any) (http.Header, error) {
	scheme := "https"
	if r.remote.PlainHTTP {
		scheme = "http"
	}
	var body io.Reader
	if question != nil {
		encoded, err := json.Marshal(question)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	ctx = auth.AppendRepositoryScope(ctx, r.remote.Reference, auth.ActionPull, map[string]string{
		http.MethodDelete: auth.ActionDelete, http.MethodPost: auth.ActionPush}[method])
	request, err := http.NewRequestWithContext(ctx, method, scheme+"://"+r.remote.Reference.Host()+"/v2/"+path, body)
	if err != nil {
		return nil, err
	}
	if question != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := r.host.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		refusal := &errcode.ErrorResponse{Method: method, URL: request.URL, StatusCode: answer.StatusCode}
		var errs struct{ Errors errcode.Errors }
		if json.Unmarshal(text, &errs) == nil { // else the status says enough
			refusal.Errors = errs.Errors
		}
		return nil, refusal
	}
	if result != nil {
		if err := json.Unmarshal(text, result); err != nil {
			return nil, fmt.Errorf("%s gave an answer that is not Berth's: %w", r.host.name, err)
		}
	}
	return answer.Header, nil
}

// maxAnswer is the most bytes of an answer that are read.
const maxAnswer = 4 << 20
