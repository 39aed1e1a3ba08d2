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
	quarantined  map[digest.Digest]bool   // of them
	uploads      map[string]metadata.Upload
	manifests    map[place]metadata.NewManifest
	tags         map[string]map[string]digest.Digest // by repository
	// keeps is set when there is a trash: trash are the manifests in it, and hidden the links that nobody sees.
	keeps  bool
	trash  map[place]metadata.NewManifest
	hidden map[place]bool
	// holds are the digests that the edges of a manifest, deleted or not, are linked to.
	holds map[place]map[digest.Digest]bool
	// history is what tags pointed to before, the oldest first, by repository.
	history map[string]map[string][]digest.Digest
	// keys are all that were ever given out, with their use: "upload", "blob", "dead", or "" for forgotten.
	keys map[string]string
}

func newModel() *model {
	return &model{
		repositories: make(map[string]bool),
		links:        make(map[place]bool),
		leased:       make(map[place]bool),
		blobs:        make(map[digest.Digest]string),
		quarantined:  make(map[digest.Digest]bool),
		uploads:      make(map[string]metadata.Upload),
		manifests:    make(map[place]metadata.NewManifest),
		tags:         make(map[string]map[string]digest.Digest),
		trash:        make(map[place]metadata.NewManifest),
		hidden:       make(map[place]bool),
		holds:        make(map[place]map[digest.Digest]bool),
		history:      make(map[string]map[string][]digest.Digest),
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

// held returns d when there is such a blob, and it is not quarantined.
func (m *model) held(d digest.Digest) digest.Digest {
	if _, ok := m.blobs[d]; !ok || m.quarantined[d] {
		return ""
	}
	return d
}

// visible reports whether a repository shows a blob.
func (m *model) visible(repository string, d digest.Digest) bool {
	return m.links[place{repository, d}] && !m.quarantined[d]
}

func (m *model) link(repository string, d digest.Digest) {
	m.repositories[repository] = true
	m.links[place{repository, d}], m.leased[place{repository, d}] = true, true
	delete(m.hidden, place{repository, d})
	m.fill(repository, d)
}

// fill links the edges that wait for a digest.
func (m *model) fill(repository string, d digest.Digest) {
	for p, held := range m.holds {
		if p.repository == repository && lists(m.any(p), d) {
			held[d] = true
		}
	}
}

// any is a manifest, deleted or not.
func (m *model) any(p place) metadata.NewManifest {
	if live, ok := m.manifests[p]; ok {
		return live
	}
	return m.trash[p]
}

func lists(m metadata.NewManifest, d digest.Digest) bool {
	is := func(e metadata.Edge) bool { return e.Digest == d }
	return slices.ContainsFunc(m.Blobs, is) || slices.ContainsFunc(m.Children, is)
}

// kept reports whether any manifest, deleted or not, holds a digest.
func (m *model) kept(repository string, d digest.Digest) bool {
	for p, held := range m.holds {
		if p.repository == repository && held[d] {
			return true
		}
	}
	return false
}

// dropUnused removes a blob that is linked nowhere and pinned by nothing.
func (m *model) dropUnused(d digest.Digest) {
	for l := range m.links {
		if l.digest == d {
			return
		}
	}
	for l := range m.hidden {
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
		delete(m.quarantined, d)
	}
}

func (m *model) commit(u metadata.Upload, d digest.Digest) {
	if u.Key != "" {
		m.keys[u.Key] = "dead"
		if m.held(d) == "" {
			if damaged, ok := m.blobs[d]; ok {
				m.keys[damaged] = "dead"
				delete(m.quarantined, d)
			}
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
		if !e.Optional && !m.visible(repository, e.Digest) && !slices.Contains(missing.Blobs, e.Digest) {
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
	p := place{repository, manifest.Digest}
	if !m.has(repository, manifest.Digest) {
		delete(m.trash, p)
		m.holds[p] = make(map[digest.Digest]bool)
		for _, e := range manifest.Blobs {
			if m.links[place{repository, e.Digest}] {
				m.holds[p][e.Digest] = true
			}
		}
		for _, e := range manifest.Children {
			if m.has(repository, e.Digest) {
				m.holds[p][e.Digest] = true
			}
		}
	}
	m.manifests[p] = manifest
	m.fill(repository, manifest.Digest)
	if m.tags[repository] == nil {
		m.tags[repository] = make(map[string]digest.Digest)
	}
	for _, tag := range manifest.Tags {
		m.setTag(repository, tag, manifest.Digest)
	}
}

func (m *model) setTag(repository, tag string, d digest.Digest) {
	if was, ok := m.tags[repository][tag]; ok && was != d {
		m.endTag(repository, tag, m.keeps)
	}
	m.tags[repository][tag] = d
}

// endTag takes a tag away, and notes what it pointed to if that is kept.
func (m *model) endTag(repository, tag string, kept bool) {
	if kept {
		if m.history[repository] == nil {
			m.history[repository] = make(map[string][]digest.Digest)
		}
		m.history[repository][tag] = append(m.history[repository][tag], m.tags[repository][tag])
	}
	delete(m.tags[repository], tag)
}

func (m *model) deleteManifest(repository string, d digest.Digest, kept bool) {
	p := place{repository, d}
	if kept {
		m.trash[p] = m.manifests[p]
	} else {
		delete(m.holds, p)
		for other := range m.holds {
			if other.repository == repository {
				delete(m.holds[other], d)
			}
		}
	}
	delete(m.manifests, p)
	for tag, tagged := range maps.Clone(m.tags[repository]) {
		if tagged == d {
			m.endTag(repository, tag, kept)
		}
	}
}

// deleteRepository deletes all of a repository.
func (m *model) deleteRepository(repository string, kept bool) {
	for p := range maps.Clone(m.manifests) {
		if p.repository == repository {
			m.deleteManifest(repository, p.digest, kept)
		}
	}
	if !kept {
		m.purge(repository)
		delete(m.history, repository)
	}
	for l := range maps.Clone(m.links) {
		if l.repository == repository {
			delete(m.links, l)
			m.hidden[l] = true
		}
	}
	for l := range maps.Clone(m.hidden) {
		if l.repository == repository && !kept {
			delete(m.hidden, l)
			m.dropUnused(l.digest)
		}
	}
}

// purge empties the trash of a repository.
func (m *model) purge(repository string) {
	for p := range maps.Clone(m.trash) {
		if p.repository == repository {
			delete(m.trash, p)
			delete(m.holds, p)
		}
	}
}

// revive brings a manifest back from the trash.
func (m *model) revive(repository string, d digest.Digest) {
	p := place{repository, d}
	manifest, ok := m.trash[p]
	if !ok {
		return
	}
	delete(m.trash, p)
	m.manifests[p] = manifest
	for _, e := range manifest.Blobs {
		l := place{repository, e.Digest}
		if m.holds[p][e.Digest] && m.hidden[l] {
			delete(m.hidden, l)
			m.links[l] = true
			m.fill(repository, e.Digest)
		}
	}
	m.fill(repository, d)
	for _, e := range manifest.Children {
		if m.holds[p][e.Digest] {
			m.revive(repository, e.Digest)
		}
	}
}

// deleted reports whether nothing of a repository is left but what is in the trash.
func (m *model) deleted(repository string) bool {
	in := func(all map[place]bool) bool {
		for p := range all {
			if p.repository == repository {
				return true
			}
		}
		return false
	}
	live, trash := maps.Clone(m.links), make(map[place]bool)
	for p := range m.manifests {
		live[p] = true
	}
	for p := range m.trash {
		trash[p] = true
	}
	return !in(live) && (in(trash) || len(m.history[repository]) > 0)
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
			if w.model.visible(repository, d) {
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
	for _, b := range all {
		wantEqual(w.t, "quarantined", !b.Quarantined.IsZero(), w.model.quarantined[b.Digest])
	}
}

func (w *walk) compareUploads() {
	for _, u := range w.model.uploads {
		w.wantUpload(w.t, u)
	}
	wantEqual(w.t, "number of uploads", w.number(w.t, `SELECT count(*) FROM uploads`), int64(len(w.model.uploads)))
}

func (w *walk) compareTags(repository string) {
	tags, err := w.Tags(w.t.Context(), repository, "", 10)
	if !w.model.repositories[repository] || w.model.deleted(repository) {
		wantError(w.t, "tags of an unknown repository", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	if want := slices.Sorted(maps.Keys(w.model.tags[repository])); !slices.Equal(tags, want) {
		w.t.Errorf("tags of %s: %q, want %q", repository, tags, want)
	}
	w.compareHistory(repository)
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

func (w *walk) compareHistory(repository string) {
	for _, tag := range walkTags() {
		want := slices.Clone(w.model.history[repository][tag])
		if d, ok := w.model.tags[repository][tag]; ok {
			want = append(want, d)
		}
		slices.Reverse(want)
		states, err := w.TagHistory(w.t.Context(), repository, tag, 1000)
		if len(want) == 0 {
			wantError(w.t, "history of a tag that never was", err, metadata.ErrNotFound)
			continue
		}
		must(w.t, err)
		var got []digest.Digest
		for _, s := range states {
			got = append(got, s.Digest)
			there := w.model.any(place{repository, s.Digest}).Digest != ""
			wantEqual(w.t, "kept", s.Kept, there)
		}
		wantEqual(w.t, "history of "+repository+":"+tag, got, want)
	}
}
