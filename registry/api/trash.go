package api

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"berth/registry"

	"github.com/opencontainers/go-digest"
)

// Below /v2/_berth/ is what the spec does not have: a repository is deleted as a whole, and a tag is set back to what it was.
const (
	headerRestorable = "Berth-Restorable-Until"
	headerSpace      = "Berth-Space-Free-By"
)

// requestedDeletion reads how to delete: now=true leaves nothing in the trash.
func requestedDeletion(c *call) (how registry.Deletion, err error) {
	how.User = c.client.Name()
	switch c.r.URL.Query().Get("now") {
	case "", "false":
	case "true":
		how.Now = true
	default:
		err = errQuery.Withf("now is true or false")
	}
	return how, err
}

// tellReturns says in headers until when what was deleted can be restored, and when its space is free at the latest.
func (h *handler) tellReturns(c *call, how registry.Deletion) {
	restorable, space := h.Service.Returns(how)
	now := time.Now().UTC()
	if restorable > 0 {
		c.w.Header().Set(headerRestorable, now.Add(restorable).Format(time.RFC3339))
	}
	if c.reference.Tag == "" { // deleting a tag frees nothing
		c.w.Header().Set(headerSpace, now.Add(space).Format(time.RFC3339))
	}
}

// deleteRepository deletes all of a repository.
func (h *handler) deleteRepository(c *call) error {
	how, err := requestedDeletion(c)
	if err != nil {
		return err
	}
	done, err := h.Service.DeleteRepository(c.r.Context(), c.repository, how)
	if err != nil {
		return err
	}
	h.audit(c, "delete", slog.Int("tags", done.Tags), slog.Int("manifests", done.Manifests), slog.Bool("now", how.Now))
	h.tellReturns(c, how)
	writeJSON(c, http.StatusAccepted, contentJSON, struct {
		Tags      int `json:"tags"`
		Manifests int `json:"manifests"`
		Blobs     int `json:"blobs"`
	}{done.Tags, done.Manifests, done.Blobs})
	return nil
}

func (h *handler) serveTag(c *call) error {
	if c.r.Method == http.MethodPost {
		return h.restoreTag(c)
	}
	return h.tagHistory(c)
}

// maxHistoryPage is the most states of a tag in one answer.
const maxHistoryPage = 1000

// tagState is registry.TagState as JSON. Who did it is told to those who may push there.
type tagState struct {
	Digest  digest.Digest `json:"digest"`
	Set     time.Time     `json:"set"`
	SetBy   string        `json:"setBy,omitempty"`
	Ended   *time.Time    `json:"ended,omitempty"`
	EndedBy string        `json:"endedBy,omitempty"`
	Deleted bool          `json:"deleted,omitempty"`
	// Kept reports whether the tag can be restored to it.
	Kept bool `json:"kept"`
}

// tagHistory answers what a tag points to and pointed to, the newest first.
func (h *handler) tagHistory(c *call) error {
	page, empty, err := requestedPage(c.r.URL.Query(), maxHistoryPage)
	if err != nil {
		return err
	}
	states, err := h.Service.TagHistory(c.r.Context(), c.repository, c.reference.Tag, page.N)
	if err != nil {
		return err
	}
	named := c.client.May(c.repository, Push)
	all := make([]tagState, 0, len(states))
	for _, s := range states {
		state := tagState{Digest: s.Digest, Set: s.Set.UTC(), Deleted: s.Deleted, Kept: s.Kept}
		if !s.Ended.IsZero() {
			ended := s.Ended.UTC()
			state.Ended = &ended
		}
		if named {
			state.SetBy, state.EndedBy = s.SetBy, s.EndedBy
		}
		all = append(all, state)
	}
	if empty {
		all = all[:0]
	}
	writeJSON(c, http.StatusOK, contentJSON, struct {
		Name   string     `json:"name"`
		Tag    string     `json:"tag"`
		States []tagState `json:"states"`
	}{c.repository, c.reference.Tag, all})
	return nil
}

// restoreTag points a tag at what it pointed to before.
func (h *handler) restoreTag(c *call) error {
	if !saysJSON(c.r) {
		return errContentType
	}
	r, err := requestedRestoration(c.r.Body)
	if err != nil {
		return err
	}
	r.User = c.client.Name()
	to, err := h.Service.RestoreTag(c.r.Context(), c.repository, c.reference.Tag, r)
	if err != nil {
		return err
	}
	h.audit(c, "restore", slog.String("reference", c.reference.Tag), slog.String("manifest", to.String()))
	c.w.Header().Set("Docker-Content-Digest", to.String())
	c.w.Header().Set("Location", h.location(c.r, "/v2/"+c.repository+"/manifests/"+to.String()))
	writeEmpty(c, http.StatusCreated)
	return nil
}

// saysJSON reports whether a request has a Content-Type that no page of another site can send, with whatever credentials the browser
// remembers, without asking the registry first (Fetch standard, "CORS-safelisted request-header").
func saysJSON(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

func requestedRestoration(body io.Reader) (r registry.Restoration, err error) {
	var asked struct {
		Digest string    `json:"digest"`
		Before time.Time `json:"before"`
	}
	decoder := json.NewDecoder(io.LimitReader(body, 4<<10))
	decoder.DisallowUnknownFields()
	if err = decoder.Decode(&asked); err == nil && (asked.Digest == "") == asked.Before.IsZero() {
		err = errors.New("it needs one of the two")
	}
	if err != nil {
		return r, errBody.Withf(`the body is JSON, {"digest": "sha256:…"} or {"before": "2026-01-31T12:00:00Z"}: %v`, err)
	}
	r.Before = asked.Before
	if asked.Digest != "" {
		r.To, err = registry.ParseDigest(asked.Digest)
	}
	return r, err
}
