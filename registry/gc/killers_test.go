package gc_test

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"berth/registry"
	"berth/registry/gc"
	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The tests of this file are named after what has cost people their images with other registries.

// put pushes a manifest.
func (s *site) put(t *testing.T, repository, reference, mediaType string, document any) v1.Descriptor {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if reference == "" {
		reference = digest.FromBytes(body).String()
	}
	ref, err := registry.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := s.PutManifest(t.Context(), repository, registry.ManifestPush{Reference: ref, MediaType: mediaType, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: pushed.Digest, Size: pushed.Size}
}

// image pushes an image of one layer, under its digest where the reference is empty.
func (s *site) image(t *testing.T, reference, layer string) v1.Descriptor {
	t.Helper()
	m := v1.Manifest{
		MediaType: v1.MediaTypeImageManifest,
		Config:    v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: s.push(t, "{}"), Size: 2},
		Layers:    []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: s.push(t, layer), Size: int64(len(layer))}},
	}
	m.SchemaVersion = 2
	return s.put(t, "a/b", reference, m.MediaType, m)
}

// sweep deletes untagged manifests, and all that nothing references any more, as if no lease held and no time had to pass.
func (s *site) sweep(t *testing.T) {
	t.Helper()
	time.Sleep(5 * time.Millisecond)
	r := gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs})
	if err := r.DeleteUntagged(t.Context(), false, metadata.Deletion{}, func(metadata.UntaggedManifest) {}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second deletes the bytes of what the first collected
		if _, err := r.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// wantPull fails unless all of a manifest can be read.
func (s *site) wantPull(t *testing.T, repository, reference string) {
	t.Helper()
	ref, err := registry.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Manifest(t.Context(), repository, ref)
	if err != nil {
		t.Errorf("pull %s: %v", reference, err)
		return
	}
	var parts struct {
		Config            v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(m.Body, &parts); err != nil {
		t.Fatal(err)
	}
	for _, child := range parts.Manifests {
		s.wantPull(t, repository, child.Digest.String())
	}
	if parts.Config.Digest == "" {
		return
	}
	for _, d := range append(parts.Layers, parts.Config) {
		blob, err := s.OpenBlob(t.Context(), repository, d.Digest)
		if err != nil {
			t.Errorf("pull %s: %v", reference, err)
			continue
		}
		if err := blob.Close(); err != nil {
			t.Error(err)
		}
	}
}

// swept is a site on which nothing is kept for any time.
func swept(t *testing.T) *site {
	t.Helper()
	return newSite(t, metadata.Config{Lease: time.Millisecond, Grace: time.Millisecond})
}

func TestMultiArchChildrenSurviveASweepOfUntagged(t *testing.T) {
	s := swept(t)
	list := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{s.image(t, "", "amd64"), s.image(t, "", "arm")}}
	list.SchemaVersion = 2
	s.put(t, "a/b", "latest", list.MediaType, list)
	stray := s.image(t, "", "stray")
	s.sweep(t)
	s.wantPull(t, "a/b", "latest")
	if _, err := s.Manifest(t.Context(), "a/b", registry.Reference{Digest: stray.Digest}); err == nil {
		t.Error("the sweep swept nothing")
	}
	if n := s.objects(t); n != 3 {
		t.Errorf("%d objects are left of 3 blobs", n)
	}
}

func TestSiblingTagSurvivesADelete(t *testing.T) {
	s := swept(t)
	s.image(t, "1.2", "same")
	s.image(t, "latest", "same")
	if err := s.DeleteTag(t.Context(), "a/b", "1.2", registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	s.sweep(t)
	s.wantPull(t, "a/b", "latest")
}

func TestSharedBlobSurvivesADeleteInOneRepository(t *testing.T) {
	s := swept(t)
	image := s.image(t, "latest", "shared")
	m, err := s.Manifest(t.Context(), "a/b", registry.Reference{Tag: "latest"})
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range []string{"{}", "shared"} {
		mount := registry.Mount{Digest: digest.FromString(blob), From: "a/b", Readable: func(string) bool { return true }}
		if ok, err := s.MountBlob(t.Context(), "c", mount); err != nil || !ok {
			t.Fatalf("mount: %v, %v", ok, err)
		}
	}
	s.put(t, "c", "latest", m.MediaType, json.RawMessage(m.Body))
	if _, err := s.DeleteManifest(t.Context(), "a/b", image.Digest, registry.Deletion{}); err != nil {
		t.Fatal(err)
	}
	s.sweep(t)
	s.wantPull(t, "c", "latest")
	if _, err := s.OpenBlob(t.Context(), "a/b", digest.FromString("shared")); err == nil {
		t.Error("the blob is still in the repository in which it was deleted")
	}
}

// TestUnreadableManifestKeepsItsBlobs damages the body of a manifest: what it references is known without it.
func TestUnreadableManifestKeepsItsBlobs(t *testing.T) {
	s := swept(t)
	s.image(t, "latest", "layer")
	db, err := sql.Open("sqlite", filepath.Join(s.directory, "metadata.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `UPDATE manifest_bodies SET body = x'00'`); err != nil {
		t.Fatal(err)
	}
	s.sweep(t)
	for _, blob := range []string{"{}", "layer"} {
		if _, err := s.OpenBlob(t.Context(), "a/b", digest.FromString(blob)); err != nil {
			t.Errorf("%s: %v", blob, err)
		}
	}
}

// TestUnreadableDatabaseStopsTheSweep takes away what says which blobs are referenced: nothing is collected then, and nothing is deleted.
func TestUnreadableDatabaseStopsTheSweep(t *testing.T) {
	s := swept(t)
	s.image(t, "latest", "layer")
	s.push(t, "nobody's")
	db, err := sql.Open("sqlite", filepath.Join(s.directory, "metadata.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `ALTER TABLE manifest_blobs RENAME TO lost`); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond)
	r := gc.New(gc.Config{Metadata: s.facts, Blobs: s.blobs})
	if done, err := r.Round(t.Context()); err == nil || done.Collected != (metadata.Collected{}) || done.Keys != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := db.ExecContext(t.Context(), `ALTER TABLE lost RENAME TO manifest_blobs`); err != nil {
		t.Fatal(err)
	}
	if n := s.objects(t); n != 3 {
		t.Errorf("%d objects are left of 3", n)
	}
	s.sweep(t)
	if n := s.objects(t); n != 2 {
		t.Errorf("%d objects are left of 2", n)
	}
	s.wantPull(t, "a/b", "latest")
}
