package metatest

import (
	"maps"
	"slices"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// place is something with a digest in a repository.
type place struct {
	repository string
	digest     digest.Digest
}

// model is what a store has to hold, as maps.
type model struct {
	repositories map[string]bool
	links        map[place]bool
	leased       map[place]bool           // of them
	blobs        map[digest.Digest]string // key
	uploads      map[string]metadata.Upload
	manifests    map[place]metadata.NewManifest
	tags         map[string]map[string]digest.Digest // by repository
	// keys are all that were ever given out, with their use: "upload", "blob", "dead", or "" for forgotten.
	keys map[string]string
}

func newModel() *model {
	return &model{
		repositories: make(map[string]bool),
		links:        make(map[place]bool),
		leased:       make(map[place]bool),
		blobs:        make(map[digest.Digest]string),
		uploads:      make(map[string]metadata.Upload),
		manifests:    make(map[place]metadata.NewManifest),
		tags:         make(map[string]map[string]digest.Digest),
		keys:         make(map[string]string),
	}
}

func walkRepositories() []string { return []string{"a", "a/b", "c"} }

func walkBlobs() []digest.Digest { return []digest.Digest{blob(1), blob(2), blob(3)} }

func walkManifests() []metadata.NewManifest {
	one, two, three := image("one", blob(1)), image("two", blob(2), blob(1), blob(1)), image("three", blob(3), blob(2))
	three.Blobs[1].Optional = true
	all, sparse := index("all", one.Digest, two.Digest), index("sparse", three.Digest, one.Digest)
	sparse.Children[0].Optional = true
	return []metadata.NewManifest{one, two, three, all, sparse, index("over", all.Digest)}
}

func (m *model) uploadIDs() []string { return slices.Sorted(maps.Keys(m.uploads)) }

// held returns d when there is such a blob.
func (m *model) held(d digest.Digest) digest.Digest {
	if _, ok := m.blobs[d]; !ok {
		return ""
	}
	return d
}

func (m *model) link(repository string, d digest.Digest) {
	m.repositories[repository] = true
	m.links[place{repository, d}], m.leased[place{repository, d}] = true, true
}

// dropUnused removes a blob that is linked nowhere and pinned by nothing.
func (m *model) dropUnused(d digest.Digest) {
	for l := range m.links {
		if l.digest == d {
			return
		}
	}
	for _, u := range m.uploads {
		if u.Pinned == d {
			return
		}
	}
	if key, ok := m.blobs[d]; ok {
		m.keys[key] = "dead"
		delete(m.blobs, d)
	}
}

func (m *model) commit(u metadata.Upload, d digest.Digest) {
	if u.Key != "" {
		m.keys[u.Key] = "dead"
		if m.held(d) == "" {
			m.blobs[d] = u.Key
			m.keys[u.Key] = "blob"
		}
	}
	m.link(u.Repository, d)
	m.uploads[u.ID] = metadata.Upload{
		ID: u.ID, Repository: u.Repository, Epoch: u.Epoch, Size: u.Size, Algorithm: u.Algorithm, Committed: d,
	}
	m.dropUnused(u.Pinned)
}

// end ends a session.
func (m *model) end(u metadata.Upload) {
	delete(m.uploads, u.ID)
	if u.Key != "" {
		m.keys[u.Key] = "dead"
	}
	m.dropUnused(u.Pinned)
}

func (m *model) has(repository string, d digest.Digest) bool {
	_, ok := m.manifests[place{repository, d}]
	return ok
}

// missing returns the error of putting a manifest, or nil.
func (m *model) missing(repository string, manifest metadata.NewManifest) error {
	if m.has(repository, manifest.Digest) {
		return nil
	}
	var missing metadata.MissingError
	for _, e := range manifest.Blobs {
		if !e.Optional && !m.links[place{repository, e.Digest}] && !slices.Contains(missing.Blobs, e.Digest) {
			missing.Blobs = append(missing.Blobs, e.Digest)
		}
	}
	for _, e := range manifest.Children {
		if !e.Optional && !m.has(repository, e.Digest) && !slices.Contains(missing.Manifests, e.Digest) {
			missing.Manifests = append(missing.Manifests, e.Digest)
		}
	}
	if missing.Blobs == nil && missing.Manifests == nil {
		return nil
	}
	return &missing
}

func (m *model) put(repository string, manifest metadata.NewManifest) {
	m.repositories[repository] = true
	m.manifests[place{repository, manifest.Digest}] = manifest
	if m.tags[repository] == nil {
		m.tags[repository] = make(map[string]digest.Digest)
	}
	for _, tag := range manifest.Tags {
		m.tags[repository][tag] = manifest.Digest
	}
}

func (m *model) deleteManifest(repository string, d digest.Digest) {
	delete(m.manifests, place{repository, d})
	maps.DeleteFunc(m.tags[repository], func(_ string, tagged digest.Digest) bool { return tagged == d })
}

// users returns the manifests of a repository that reference a blob.
func (m *model) users(repository string, d digest.Digest) []digest.Digest {
	return m.referencing(repository, func(manifest metadata.NewManifest) []metadata.Edge { return manifest.Blobs }, d)
}

// parents returns the manifests of a repository that list a manifest.
func (m *model) parents(repository string, d digest.Digest) []digest.Digest {
	return m.referencing(repository, func(manifest metadata.NewManifest) []metadata.Edge { return manifest.Children }, d)
}

func (m *model) referencing(repository string, edges func(metadata.NewManifest) []metadata.Edge, d digest.Digest) (all []digest.Digest) {
	for p, manifest := range m.manifests {
		if p.repository == repository && slices.ContainsFunc(edges(manifest), func(e metadata.Edge) bool { return e.Digest == d }) {
			all = append(all, p.digest)
		}
	}
	return all
}

// compare fails unless everything that the store tells is as the model has it.
func (w *walk) compare() {
	w.compareBlobs()
	w.compareUploads()
	for _, repository := range walkRepositories() {
		w.compareTags(repository)
		for _, m := range walkManifests() {
			w.compareManifest(repository, m)
		}
	}
	for key, use := range w.model.keys {
		w.wantUse(w.t, key, use)
	}
}

func (w *walk) compareBlobs() {
	for _, repository := range walkRepositories() {
		for _, d := range walkBlobs() {
			got, err := w.Blob(w.t.Context(), repository, d)
			if w.model.links[place{repository, d}] {
				must(w.t, err)
				wantEqual(w.t, "blob", got, metadata.Blob{Digest: d, Key: w.model.blobs[d], Size: blobSize})
			} else {
				wantError(w.t, "blob that is not there", err, metadata.ErrNotFound)
			}
		}
	}
	all, err := w.Blobs(w.t.Context(), "", 100)
	must(w.t, err)
	wantEqual(w.t, "number of blobs", len(all), len(w.model.blobs))
}

func (w *walk) compareUploads() {
	for _, u := range w.model.uploads {
		w.wantUpload(w.t, u)
	}
	wantEqual(w.t, "number of uploads", w.number(w.t, `SELECT count(*) FROM uploads`), int64(len(w.model.uploads)))
}

func (w *walk) compareTags(repository string) {
	tags, err := w.Tags(w.t.Context(), repository, "", 10)
	if !w.model.repositories[repository] {
		wantError(w.t, "tags of an unknown repository", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	if want := slices.Sorted(maps.Keys(w.model.tags[repository])); !slices.Equal(tags, want) {
		w.t.Errorf("tags of %s: %q, want %q", repository, tags, want)
	}
	for tag, d := range w.model.tags[repository] {
		w.wantManifest(w.t, repository, tagged(w.model.manifests[place{repository, d}], tag))
	}
}

func (w *walk) compareManifest(repository string, m metadata.NewManifest) {
	if !w.model.has(repository, m.Digest) {
		w.wantNoManifest(w.t, repository, m)
		return
	}
	w.wantManifest(w.t, repository, tagged(m))
	for i, e := range m.Children {
		m.Children[i].Optional = !w.model.has(repository, e.Digest)
	}
	w.wantChildren(w.t, repository, m)
}
