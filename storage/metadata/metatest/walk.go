package metatest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// walkTests compare the store with a model of it along random sequences of calls.
func walkTests() suite {
	var tests suite
	for seed := range uint64(8) {
		tests = append(tests, struct {
			name string
			run  func(t *testing.T, f *fixture)
		}{fmt.Sprintf("Seed%d", seed), func(t *testing.T, f *fixture) {
			w := &walk{fixture: f, t: t, rng: rand.New(rand.NewPCG(seed, 0)), model: newModel()}
			w.model.keeps = f.trash
			w.run(300)
		}})
	}
	return tests
}

// walk makes random calls, few enough different ones that they meet each other.
type walk struct {
	*fixture
	t     *testing.T
	rng   *rand.Rand
	model *model
}

func (w *walk) run(steps int) {
	moves := []func(){
		w.start, w.start, w.keep, w.whole, w.claim, w.checkpoint, w.commit, w.commit, w.commit, w.cancel, w.expire,
		w.mount, w.lease, w.deleteBlob, w.put, w.put, w.put, w.deleteManifest, w.deleteTag, w.forget, w.collect,
		w.restore, w.restore, w.purge, w.deleteRepository, w.quarantine, w.endQuarantine,
	}
	for step := range steps {
		moves[w.rng.IntN(len(moves))]()
		if step%40 == 0 {
			w.compare()
		}
		if w.t.Failed() {
			w.t.Fatalf("at step %d", step)
		}
	}
	w.compare()
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

func (w *walk) repository() string  { return pick(w.rng, walkRepositories()) }
func (w *walk) blob() digest.Digest { return pick(w.rng, walkBlobs()) }
func (w *walk) chance(n int) bool   { return w.rng.IntN(n) == 0 }
func (w *walk) upload() (string, bool) {
	ids := w.model.uploadIDs()
	if len(ids) == 0 {
		return "", false
	}
	return pick(w.rng, ids), true
}

// declared is a digest or none.
func (w *walk) declared() digest.Digest {
	if w.chance(2) {
		return ""
	}
	return w.blob()
}

func (w *walk) start() {
	declared := w.declared()
	u, err := w.StartUpload(w.t.Context(), w.newID(), w.repository(), digest.SHA256, declared)
	must(w.t, err)
	w.model.repositories[u.Repository] = true
	want := metadata.Upload{ID: u.ID, Repository: u.Repository, Epoch: 1, Algorithm: digest.SHA256, Pinned: w.model.held(declared)}
	w.takeKey(&want, u)
	wantEqual(w.t, "start", u, want)
	w.model.uploads[u.ID] = u
}

// keep records a session that was under way.
func (w *walk) keep() {
	declared := w.declared()
	u := metadata.Upload{ID: w.newID(), Repository: w.repository(), Algorithm: digest.SHA256}
	if w.chance(2) {
		u.Size, u.Content, u.HashState = 5, small(5), []byte("state")
	}
	got, err := w.KeepUpload(w.t.Context(), u, declared)
	must(w.t, err)
	w.model.repositories[u.Repository] = true
	want := u
	want.Epoch = 1
	if u.Size == 0 {
		want.Pinned = w.model.held(declared)
	}
	w.takeKey(&want, got)
	wantEqual(w.t, "keep", got, want)
	want.Content = nil
	w.model.uploads[u.ID] = want
}

// whole commits a session that nobody knew of.
func (w *walk) whole() {
	u, d := metadata.Upload{ID: w.newID(), Repository: w.repository(), Algorithm: digest.SHA256, Size: blobSize, Content: small(blobSize)}, w.blob()
	must(w.t, w.CommitWhole(w.t.Context(), u, d))
	u.Content, u.Epoch = nil, 1
	if w.model.held(d) == "" {
		b, err := w.Blob(w.t.Context(), u.Repository, d)
		must(w.t, err)
		got := u
		got.Key = b.Key
		w.takeKey(&u, got)
	}
	w.model.commit(u, d)
}

// takeKey gives want the key of got where it has to have one, and sees to it that it is new.
func (w *walk) takeKey(want *metadata.Upload, got metadata.Upload) {
	if want.Key != "" || want.Pinned != "" {
		return
	}
	if _, known := w.model.keys[got.Key]; known || got.Key == "" {
		w.t.Errorf("upload %s got the key %q", got.ID, got.Key)
	}
	want.Key = got.Key
	w.model.keys[got.Key] = "upload"
}

func (w *walk) claim() {
	id, ok := w.upload()
	if !ok {
		return
	}
	want, declared := w.model.uploads[id], w.declared()
	u, err := w.ClaimUpload(w.t.Context(), want.Repository, id, declared)
	must(w.t, err)
	if want.Committed == "" {
		pinned := want.Pinned
		want.Epoch, want.Pinned = want.Epoch+1, ""
		if want.Size == 0 {
			want.Pinned = w.model.held(declared)
		}
		w.takeKey(&want, u)
		w.model.uploads[id] = want
		w.model.dropUnused(pinned)
	}
	wantEqual(w.t, "claim", u, want)
}

// attempt returns an upload as somebody knows it who may have been superseded, and whether that is so.
func (w *walk) attempt() (u metadata.Upload, superseded, ok bool) {
	id, ok := w.upload()
	if !ok {
		return u, false, false
	}
	u = w.model.uploads[id]
	superseded = u.Committed != ""
	if w.chance(5) {
		u.Epoch--
		superseded = true
	}
	return u, superseded, true
}

func (w *walk) checkpoint() {
	u, superseded, ok := w.attempt()
	if !ok || u.Pinned != "" {
		return
	}
	u.Size, u.State, u.HashState = u.Size+1, []byte("state"), []byte("hash")
	err := w.CheckpointUpload(w.t.Context(), u)
	if superseded {
		wantError(w.t, "checkpoint", err, metadata.ErrSuperseded)
		return
	}
	must(w.t, err)
	w.model.uploads[u.ID] = u
}

func (w *walk) commit() {
	u, superseded, ok := w.attempt()
	if !ok {
		return
	}
	d := w.blob()
	if u.Pinned != "" && (u.Key == "" || w.chance(2)) {
		d = u.Pinned
	}
	u.Size = blobSize
	err := w.CommitUpload(w.t.Context(), u, d)
	if superseded {
		wantError(w.t, "commit", err, metadata.ErrSuperseded)
		return
	}
	if u.Pinned == d && w.model.quarantined[d] {
		wantError(w.t, "commit of what was quarantined since", err, metadata.ErrQuarantined)
		return
	}
	must(w.t, err)
	w.model.commit(u, d)
}

func (w *walk) cancel() {
	id, ok := w.upload()
	if !ok {
		return
	}
	u := w.model.uploads[id]
	err := w.CancelUpload(w.t.Context(), u.Repository, id)
	if u.Committed != "" {
		wantError(w.t, "cancel", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	w.model.end(u)
}

func (w *walk) expire() {
	id, ok := w.upload()
	if !ok || !w.chance(3) {
		return
	}
	u := w.model.uploads[id]
	w.fixture.expire(w.t, u)
	w.wantExpired(w.t, u)
	w.model.end(u)
}

func (w *walk) mount() {
	to, from, d := w.repository(), w.repository(), w.blob()
	err := w.MountBlob(w.t.Context(), to, from, d)
	if !w.model.visible(from, d) {
		wantError(w.t, "mount", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	w.model.link(to, d)
}

func (w *walk) lease() {
	repository, d := w.repository(), w.blob()
	b, err := w.LeaseBlob(w.t.Context(), repository, d)
	if !w.model.visible(repository, d) {
		wantError(w.t, "lease", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	w.model.leased[place{repository, d}] = true
	wantEqual(w.t, "leased blob", b, metadata.Blob{Digest: d, Key: w.model.blobs[d], Size: blobSize})
}

// quarantine quarantines a blob, by its key or another.
func (w *walk) quarantine() {
	d, key := w.damaged()
	done, err := w.Quarantine(w.t.Context(), d, key)
	must(w.t, err)
	want := w.model.held(d) != "" && key == w.model.blobs[d]
	wantEqual(w.t, "quarantine", done, want)
	if want {
		w.model.quarantined[d] = true
	}
}

func (w *walk) endQuarantine() {
	d, key := w.damaged()
	done, err := w.EndQuarantine(w.t.Context(), d, key)
	must(w.t, err)
	want := w.model.quarantined[d] && key == w.model.blobs[d]
	wantEqual(w.t, "end quarantine", done, want)
	if want {
		delete(w.model.quarantined, d)
	}
}

// damaged is a blob, whether or not it is there, and a key that need not be its.
func (w *walk) damaged() (d digest.Digest, key string) {
	d = w.blob()
	if w.chance(4) {
		return d, "other"
	}
	return d, w.model.blobs[d]
}

func (w *walk) deleteBlob() {
	repository, d := w.repository(), w.blob()
	err := w.DeleteBlob(w.t.Context(), repository, d)
	users := w.model.users(repository, d)
	switch {
	case !w.model.links[place{repository, d}]:
		wantError(w.t, "delete blob", err, metadata.ErrNotFound)
	case len(users) > 0:
		wantInUse(w.t, "delete blob", err, users...)
	default:
		must(w.t, err)
		delete(w.model.links, place{repository, d})
		if w.model.kept(repository, d) {
			w.model.hidden[place{repository, d}] = true
		}
		w.model.dropUnused(d)
	}
}

// collect ends some leases and has the collector look.
func (w *walk) collect() {
	all := maps.Clone(w.model.links)
	maps.Copy(all, w.model.hidden)
	for l := range all {
		if w.model.leased[l] && w.chance(2) {
			delete(w.model.leased, l)
			w.endLease(w.t, l.repository, l.digest)
		}
	}
	done, err := w.Collect(w.t.Context(), 100)
	must(w.t, err)
	links, blobs := 0, len(w.model.blobs)
	for l := range all {
		switch {
		case w.model.leased[l] || len(w.model.users(l.repository, l.digest)) > 0:
		case w.model.kept(l.repository, l.digest):
			delete(w.model.links, l)
			w.model.hidden[l] = true
		default:
			delete(w.model.links, l)
			delete(w.model.hidden, l)
			w.model.dropUnused(l.digest)
			links++
		}
	}
	blobs -= len(w.model.blobs)
	if done.Links != links || done.Blobs != blobs || done.Bytes != int64(blobs)*blobSize {
		w.t.Errorf("collected %+v, want %d links and %d blobs", done, links, blobs)
	}
}

func (w *walk) put() {
	repository, m := w.repository(), pick(w.rng, walkManifests())
	if !w.chance(4) {
		m.Tags = []string{pick(w.rng, walkTags())}
	}
	err := w.PutManifest(w.t.Context(), repository, m)
	if missing := w.model.missing(repository, m); missing != nil {
		wantEqual(w.t, "put", err, missing)
		return
	}
	must(w.t, err)
	w.model.put(repository, m)
}

func (w *walk) deleteManifest() {
	repository, m := w.repository(), pick(w.rng, walkManifests())
	how := metadata.Deletion{Now: w.chance(4)}
	err := w.DeleteManifest(w.t.Context(), repository, m.Digest, how)
	parents := w.model.parents(repository, m.Digest)
	switch {
	case !w.model.has(repository, m.Digest):
		wantError(w.t, "delete manifest", err, metadata.ErrNotFound)
	case len(parents) > 0:
		wantInUse(w.t, "delete manifest", err, parents...)
	default:
		must(w.t, err)
		w.model.deleteManifest(repository, m.Digest, w.keeps(how))
	}
}

func (w *walk) deleteTag() {
	repository, tag, how := w.repository(), pick(w.rng, walkTags()), metadata.Deletion{Now: w.chance(4)}
	err := w.DeleteTag(w.t.Context(), repository, tag, how)
	if _, ok := w.model.tags[repository][tag]; !ok {
		wantError(w.t, "delete tag", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	w.model.endTag(repository, tag, w.keeps(how))
}

func walkTags() []string { return []string{"x", "y", "z"} }

// keeps reports whether what is deleted goes to the trash.
func (w *walk) keeps(how metadata.Deletion) bool { return w.trash && !how.Now }

func (w *walk) deleteRepository() {
	if !w.chance(5) {
		return
	}
	repository, how := w.repository(), metadata.Deletion{Now: w.chance(3)}
	done, err := w.DeleteRepository(w.t.Context(), repository, how)
	want := metadata.DeletedRepository{Tags: len(w.model.tags[repository])}
	for p := range w.model.manifests {
		if p.repository == repository {
			want.Manifests++
		}
	}
	for l := range w.model.links {
		if l.repository == repository {
			want.Blobs++
		}
	}
	if want == (metadata.DeletedRepository{}) {
		wantError(w.t, "delete a repository that is empty", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	wantEqual(w.t, "deleted", done, want)
	w.model.deleteRepository(repository, w.keeps(how))
}

func (w *walk) restore() {
	repository, tag, m := w.repository(), pick(w.rng, walkTags()), pick(w.rng, walkManifests())
	err := w.RestoreTag(w.t.Context(), repository, tag, m.Digest, "", false)
	if w.model.any(place{repository, m.Digest}).Digest == "" {
		wantError(w.t, "restore what is not there", err, metadata.ErrNotFound)
		return
	}
	must(w.t, err)
	w.model.revive(repository, m.Digest)
	w.model.setTag(repository, tag, m.Digest)
}

// purge lets the time of all pass that is in the trash.
func (w *walk) purge() {
	if !w.trash || !w.chance(3) {
		return
	}
	for _, statement := range []string{`UPDATE manifests SET deleted_at = 1 WHERE deleted_at IS NOT NULL`, `UPDATE tag_history SET ended_at = 1`} {
		_, err := w.sql.ExecContext(w.t.Context(), statement)
		must(w.t, err)
	}
	purged, states := 0, 0
	for done := (metadata.Purged{Manifests: 1}); done != (metadata.Purged{}); {
		var err error
		done, err = w.PurgeTrash(w.t.Context(), 2)
		must(w.t, err)
		purged, states = purged+done.Manifests, states+done.States
	}
	wantEqual(w.t, "purged manifests", purged, len(w.model.trash))
	want := 0
	for _, tags := range w.model.history {
		for _, h := range tags {
			want += len(h)
		}
	}
	wantEqual(w.t, "purged states of tags", states, want)
	for _, repository := range walkRepositories() {
		w.model.purge(repository)
		delete(w.model.history, repository)
	}
}

// forget lets the grace pass and forgets the keys that are dead, as the reaper does.
func (w *walk) forget() {
	if !w.chance(5) {
		return
	}
	_, err := w.sql.ExecContext(w.t.Context(), `UPDATE dead_keys SET delete_after = 0`)
	must(w.t, err)
	keys, err := w.ClaimDeadKeys(w.t.Context(), 1000)
	must(w.t, err)
	for _, key := range keys {
		if w.model.keys[key] != "dead" {
			w.t.Errorf("key %s is dead and should be %q", key, w.model.keys[key])
		}
		w.model.keys[key] = ""
	}
	must(w.t, w.ForgetKeys(w.t.Context(), keys))
}
