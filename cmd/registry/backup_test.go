package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/storage/metadata"
)

// keysOf returns what is secret in a data directory, by name: the files, and what the files' lines have.
func keysOf(t *testing.T, directory string) map[string]string {
	t.Helper()
	keys := make(map[string]string)
	for _, name := range []string{"tls/ca-key.pem", "tls/key.pem", "token-keys.pem", "initial-admin-password"} {
		data, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = string(data)
	}
	return keys
}

// reveals names the keys of which some line is in data.
func reveals(data []byte, keys map[string]string) (names []string) {
	for name, key := range keys {
		for line := range strings.Lines(key) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && len(line) > 10 && bytes.Contains(data, []byte(line)) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// unpacked are all bytes of a backup, with those of the database as it is when it is not compressed.
func unpacked(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, all := tar.NewReader(bytes.NewReader(file)), file
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".gz") {
			all = append(all, gunzip(t, r)...)
		}
	}
}

func gunzip(t *testing.T, r io.Reader) []byte {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestBackupKeys backs a registry up whose database and data directory have keys, as that of a registry which was one of several has.
// They are in no file that was not asked for them, nor in a snapshot, and come back from one that was.
func TestBackupKeys(t *testing.T) {
	directory, work := t.TempDir(), t.TempDir()
	serve(t, directory).end(t) // which makes a CA
	r := serve(t, directory, "REGISTRY_HTTP_TLS_MODE=off")
	visitor{t: t, url: r.url()}.as("admin", initialPassword(t, directory)).pushImage("app", "v1", "amd64")
	if _, errOut, err := command(t, r.environ, "token", "create", "--name", "ci", "--repositories", "**", "--actions", "pull"); err != nil {
		t.Fatalf("%v %s", err, errOut)
	}
	r.end(t)
	keys := keysOf(t, directory)
	facts, err := metadata.Open(t.Context(), metadata.Config{Path: filepath.Join(directory, "metadata.sqlite")})
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{authoritySetting: "tls/ca-key.pem", tokenKeysSetting: "token-keys.pem"} {
		if err := facts.SetSetting(t.Context(), name, []byte(keys[file])); err != nil {
			t.Fatal(err)
		}
	}
	if err := facts.Close(); err != nil {
		t.Fatal(err)
	}
	if database, err := os.ReadFile(filepath.Join(directory, "metadata.sqlite")); err != nil || len(reveals(database, keys)) != 2 {
		t.Fatalf("the database has %q, %v: this test would find nothing", reveals(database, keys), err)
	}

	without, with := filepath.Join(work, "without.tar"), filepath.Join(work, "with.tar")
	online := func() {
		out, errOut, err := command(t, r.environ, "backup", "--with-blobs", "--to", without)
		if err != nil || !strings.Contains(out, without) || !strings.Contains(out, "facts, 1 blobs)") {
			t.Fatalf("%v %s%s", err, out, errOut)
		}
		if names := reveals(unpacked(t, without), keys); len(names) > 0 {
			t.Errorf("a file without keys has those of %q", names)
		}
		if out, errOut, err = command(t, r.environ, "backup", "--with-blobs", "--with-keys", "--to", with); err != nil || !strings.Contains(out, "6 files with keys)") {
			t.Fatalf("%v %s%s", err, out, errOut)
		}
		if names := reveals(unpacked(t, with), keys); len(names) != len(keys) {
			t.Errorf("a file with keys has only those of %q", names)
		}
		for _, path := range []string{with, without} {
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
			}
		}
	}
	online() // which is offline
	serving := serve(t, directory, "REGISTRY_HTTP_TLS_MODE=off")
	online()
	if out, errOut, err := command(t, serving.environ, "backup"); err != nil {
		t.Errorf("%v %s%s", err, out, errOut)
	}
	serving.end(t)
	snapshots, err := filepath.Glob(filepath.Join(directory, "backups", "*"))
	if err != nil || len(snapshots) != 1 {
		t.Fatalf("snapshots: %q, %v", snapshots, err)
	}
	f, err := os.Open(snapshots[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names := reveals(gunzip(t, f), keys); len(names) > 0 {
		t.Errorf("a snapshot has the keys of %q", names)
	}

	password := strings.TrimSpace(keys["initial-admin-password"])
	pull := func(from *running) {
		t.Helper()
		v := visitor{t: t, url: from.url()}.as("admin", password)
		if status, body, _ := v.do(http.MethodGet, "/v2/app/manifests/v1", "", ""); status != http.StatusOK {
			t.Errorf("the image: %d %s", status, body)
		}
	}
	// With keys all is as it was: machines trust the new registry as they did the old one.
	elsewhere := filepath.Join(work, "elsewhere")
	if out, errOut, err := command(t, inData(elsewhere), "restore", "--from", with); err != nil || !strings.Contains(out, ": 0 findings") {
		t.Fatalf("%v %s%s", err, out, errOut)
	}
	restored := serve(t, elsewhere, "REGISTRY_HTTP_TLS_MODE=off")
	pull(restored)
	restored.end(t)
	for name, key := range keysOf(t, elsewhere) {
		if info, err := os.Stat(filepath.Join(elsewhere, name)); err != nil || key != keys[name] || info.Mode() != 0o600 {
			t.Errorf("%s is another, or its mode is %v: %v", name, info.Mode(), err)
		}
	}
	// Without, the password is as it was and the keys are new; and they give way to others only when they may.
	elsewhere = filepath.Join(work, "other")
	if out, errOut, err := command(t, inData(elsewhere), "restore", "--from", without); err != nil || !strings.Contains(out, ": 0 findings") {
		t.Fatalf("%v %s%s", err, out, errOut)
	}
	serve(t, elsewhere).end(t)
	restored = serve(t, elsewhere, "REGISTRY_HTTP_TLS_MODE=off")
	pull(restored)
	restored.end(t)
	own, err := os.ReadFile(filepath.Join(elsewhere, "tls/ca-key.pem"))
	if err != nil || string(own) == keys["tls/ca-key.pem"] {
		t.Errorf("the CA is the old one, %v", err)
	}
	if err := os.Remove(filepath.Join(elsewhere, "metadata.sqlite")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := command(t, inData(elsewhere), "restore", "--from", with); err == nil || !strings.Contains(err.Error(), "there are other keys at ") {
		t.Errorf("over other keys: %v", err)
	}
	if now, err := os.ReadFile(filepath.Join(elsewhere, "tls/ca-key.pem")); err != nil || !bytes.Equal(now, own) {
		t.Errorf("the CA was replaced, %v", err)
	}
	if out, errOut, err := command(t, inData(elsewhere), "restore", "--replace", "--from", with); err != nil || !strings.Contains(out, ": 0 findings") {
		t.Fatalf("%v %s%s", err, out, errOut)
	}
	aside, err := filepath.Glob(filepath.Join(elsewhere, "tls/ca-key.pem.replaced-*"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("aside is %q, %v", aside, err)
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, own) {
		t.Errorf("the CA that was there is lost, %v", err)
	}
}

func initialPassword(t *testing.T, directory string) string {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(directory, initialPasswordFile))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(password))
}

// TestBackupRefuses asks for what makes no sense, or can't be.
func TestBackupRefuses(t *testing.T) {
	directory, work := t.TempDir(), t.TempDir()
	environ := inData(directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off")
	good := filepath.Join(work, "good.tar")
	refuses := func(want string, environ []string, args ...string) {
		t.Helper()
		out, errOut, err := command(t, environ, args...)
		if err == nil || !strings.Contains(err.Error()+out+errOut, want) {
			t.Errorf("%v: %v %s%s, want %q", args, err, out, errOut, want)
		}
	}
	refuses("there is no registry to back up", environ, "backup", "--to", good)
	refuses("there is no registry to back up", environ, "backup")
	if entries, err := os.ReadDir(directory); err != nil || len(entries) > 0 {
		t.Errorf("something was made in no registry: %v, %v", entries, err)
	}
	r := serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off")
	visitor{t: t, url: r.url()}.pushLarge("app", "v1", "amd64")
	refuses("name it with --to", environ, "backup", "--with-blobs")
	refuses("name it with --to", environ, "backup", "--with-keys")
	refuses("--to needs the name of a file", environ, "backup", "--to", "")
	refuses("no such file or directory", environ, "backup", "--to", filepath.Join(work, "nowhere", "x.tar"))
	refuses("it is no regular file", environ, "backup", "--to", "/dev/null")
	refuses("it is no regular file", environ, "backup", "--to", work)
	postgres := append(environ, "REGISTRY_METADATA_POSTGRES_DSN=postgres://nowhere/x")
	refuses("the facts are in PostgreSQL", postgres, "backup", "--to", good)
	refuses("the facts are in PostgreSQL", postgres, "restore", "--from", good)
	if out, errOut, err := command(t, environ, "backup", "--with-blobs", "--to", good); err != nil {
		t.Fatalf("%v %s%s", err, out, errOut)
	}
	blobs := filepath.Join(directory, "blobs")
	if err := os.Rename(blobs, blobs+"-hidden"); err != nil {
		t.Fatal(err)
	}
	refuses("can't be read", environ, "backup", "--with-blobs", "--to", filepath.Join(work, "never.tar"))
	if err := os.Rename(blobs+"-hidden", blobs); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(work); err != nil || len(entries) != 1 {
		t.Errorf("a backup that failed left %v, %v", entries, err)
	}
	refuses("another registry is using", environ, "restore", "--replace", "--from", good)
	r.end(t)
	refuses("--replace moves it out of the way", environ, "restore", "--from", good)
	refuses("no snapshot's name", environ, "restore", "--replace", "--from", "good.tar")
	refuses("there is no snapshot", environ, "restore", "--replace")
	refuses("there is no snapshot", environ, "restore", "--replace", "--from", "20260102T150405.000Z-00000000")
	refuses("standard input: this is no backup", environ, "restore", "--replace", "--from", "-")

	// A file that is damaged changes nothing, be there a registry or none.
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(work, "bad.tar")
	if err := os.WriteFile(bad, content[:len(content)-2048], 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, directory)
	refuses("the backup is damaged or cut off", environ, "restore", "--replace", "--from", bad)
	if after := tree(t, directory); after != before {
		t.Errorf("there was\n%s\nand is\n%s", before, after)
	}
	empty := filepath.Join(work, "empty")
	refuses("the backup is damaged or cut off", inData(empty), "restore", "--from", bad)
	if blobFiles(t, empty) > 0 {
		t.Errorf("%d files are left", blobFiles(t, empty))
	}
	fresh := serve(t, empty, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off") // as if nothing had been tried
	fresh.end(t)
	// Facts alone come back with a list of what is missing.
	if out, errOut, err := command(t, environ, "backup", "--to", good); err != nil || !strings.Contains(out, ": facts)") {
		t.Fatalf("%v %s%s", err, out, errOut)
	}
	refuses("checked 1 blobs", inData(filepath.Join(work, "facts")), "restore", "--from", good)
}

// tree lists the files of a directory with their sizes and times, but for those of locks.
func tree(t *testing.T, directory string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(directory, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, ".lock") {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			all.WriteString(path + " " + info.ModTime().Format(time.RFC3339Nano) + " " + bytesString(info.Size()) + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestBackupToStandardOutput takes a backup from a pipe to a pipe.
func TestBackupToStandardOutput(t *testing.T) {
	directory := t.TempDir()
	r := serve(t, directory, "REGISTRY_AUTH=none", "REGISTRY_HTTP_TLS_MODE=off")
	visitor{t: t, url: r.url()}.pushLarge("app", "v1", "amd64")
	file, errOut, err := command(t, r.environ, "backup", "--with-blobs", "--to", "-")
	if err != nil || errOut != "" {
		t.Fatalf("%v %s", err, errOut)
	}
	r.end(t)
	elsewhere := filepath.Join(t.TempDir(), "data")
	var out, errs output
	if err := run(t.Context(), []string{"restore", "--from", "-", "--json"}, inData(elsewhere), strings.NewReader(file), &out, &errs); err != nil {
		t.Fatalf("%v %s%s", err, out.String(), errs.String())
	}
	if blobFiles(t, elsewhere) != 1 {
		t.Errorf("%d files", blobFiles(t, elsewhere))
	}
}
