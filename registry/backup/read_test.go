package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/registry/backup"
	"berth/storage/metadata"

	_ "modernc.org/sqlite"
)

// TestEveryByte changes bytes of a file, and cuts it off: either that is noticed, and nothing is left, or it does not matter.
func TestEveryByte(t *testing.T) {
	s := newSite(t, t.TempDir())
	for _, c := range contents[:3] {
		s.push(t, c.algorithm, c.content)
	}
	file := export(t, s.keeper(backup.Config{}), backup.Contents{Blobs: true})
	try := func(what string, file []byte) (noticed bool) {
		t.Helper()
		restored, _, err := restore(t, file, t.TempDir())
		if restored != nil {
			defer restored.facts.Close()
		}
		if err == nil {
			for _, c := range contents[:3] {
				if got, err := os.ReadFile(restored.path(t, c.algorithm.FromString(c.content))); err != nil || string(got) != c.content {
					t.Errorf("%s: %q came back as %q", what, c.content, got)
				}
			}
			return false
		}
		if restored != nil {
			if left := files(t, restored.directory); len(left) > 0 {
				t.Errorf("%s: %q are left", what, left)
			}
		}
		return true
	}
	end := bytes.LastIndex(file, []byte("backup.json\n")) // behind which there are zeros
	for size := 0; size < end; size += 997 {
		if !try(fmt.Sprintf("cut at %d", size), file[:size]) {
			t.Errorf("that the file ends after %d bytes of %d is not noticed", size, len(file))
		}
	}
	noticed := 0
	const step = 307
	for at := 0; at < len(file); at += step {
		changed := bytes.Clone(file)
		changed[at] ^= 0x40
		if try(fmt.Sprintf("byte %d", at), changed) {
			noticed++
		}
	}
	if noticed < len(file)/step/2 {
		t.Errorf("%d changes of %d were noticed", noticed, len(file)/step)
	}
}

// entry is one of a file that nobody's program wrote.
type entry struct {
	name    string
	content []byte
	kind    byte
	size    int64 // that it claims, when it is not that of content
}

func forge(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o600, Size: max(int64(len(e.content)), e.size), Typeflag: e.kind}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeSymlink {
			h.Linkname, h.Size = "/etc/passwd", 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
		if e.size > 0 {
			return file.Bytes()
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// described is a manifest that fits a database's entry.
func described(database []byte, uncompressed int64, more string) entry {
	return entry{name: "backup.json", content: fmt.Appendf(nil,
		`{"format":1,"database":{"name":"metadata.sqlite.gz","size":%d,"sha256":"%x","uncompressed":%d}%s}`,
		len(database), sha256.Sum256(database), uncompressed, more)}
}

func zipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(content)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func ended(manifest entry) entry {
	return entry{name: "backup.json.sha256", content: fmt.Appendf(nil, "%x  backup.json\n", sha256.Sum256(manifest.content))}
}

func TestHostileFiles(t *testing.T) {
	s := filled(t)
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := s.facts.WriteSnapshot(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	database := zipped(t, plain)
	good := described(database, int64(len(plain)), "")
	data := entry{name: "metadata.sqlite.gz", content: database}
	bomb := zipped(t, make([]byte, 64<<20))
	nonsense := zipped(t, []byte("no database"))
	key := fmt.Sprintf(`,"keys":[{"name":"keys/%%s","size":1,"sha256":"%x"}]`, sha256.Sum256([]byte("x")))
	with := func(more string) entry { return described(database, int64(len(plain)), more) }
	if _, _, err := restore(t, forge(t, good, data, ended(good)), t.TempDir()); err != nil {
		t.Fatalf("the file that the others are made from: %v", err)
	}
	for _, tt := range []struct {
		name string
		file []byte
		says string
	}{
		{"nothing", nil, "this is no backup"},
		{"text", []byte("hello\n"), "this is no backup"},
		{"a compressed tar", zipped(t, forge(t, good, data, ended(good))), "this is no backup"},
		{"another tar", forge(t, entry{name: "etc/passwd"}), "this is no backup"},
		{"a link for a manifest", forge(t, entry{name: "backup.json", kind: tar.TypeSymlink}), "this is no backup"},
		{"a manifest without end", forge(t, entry{name: "backup.json", size: 1 << 40}), "this is no backup"},
		{"a manifest that is cut off", forge(t, entry{name: "backup.json", size: 1000}), "cut off"},
		{"a manifest that is none", forge(t, entry{name: "backup.json", content: []byte("[]")}), "damaged"},
		{"a newer format", forge(t, entry{name: "backup.json", content: []byte(`{"format":2,"version":"9.9"}`)}), `a newer Berth ("9.9")`},
		{"no database", forge(t, good, ended(good)), "where metadata.sqlite.gz should be"},
		{"an end too soon", forge(t, good), "ends before metadata.sqlite.gz"},
		{"a database of another size", forge(t, good, entry{name: "metadata.sqlite.gz", content: database[1:]}), "bytes, not"},
		{"a huge database", forge(t, described(nil, 1<<60, ""), entry{name: "metadata.sqlite.gz", size: 1 << 60}), "bytes, not"},
		{"another database", forge(t, described(nonsense, int64(len(plain)), ""), entry{name: "metadata.sqlite.gz", content: nonsense}), "checksum"},
		{"a bomb", forge(t, described(bomb, 1000, ""), entry{name: "metadata.sqlite.gz", content: bomb}), "checksum"},
		{"no SQLite", forge(t, described(nonsense, 11, ""), entry{name: "metadata.sqlite.gz", content: nonsense}), "not a database"},
		{"no gzip", forge(t, described(plain, int64(len(plain)), ""), entry{name: "metadata.sqlite.gz", content: plain}), "gzip"},
		{"no end", forge(t, good, data), "ends before backup.json.sha256"},
		{"the end of another", forge(t, good, data, ended(data)), "checksum"},
		{"more behind the end", forge(t, good, data, ended(good), entry{name: "x"}), `"x" behind its end`},
		{"a way out", forge(t, good, entry{name: "../../etc/cron.d/x"}), `"../../etc/cron.d/x" where`},
		{"a key that is a way out", forge(t, with(fmt.Sprintf(key, "../x"))), `"keys/../x" is no key`},
		{"a key in the root", forge(t, with(fmt.Sprintf(key, "/x"))), "is no key"},
		{"a huge key", forge(t, described(database, 1, `,"keys":[{"name":"keys/x","size":99999999}]`)), "is no key"},
		{"another key", forge(t, with(fmt.Sprintf(key, "x")), data, entry{name: "keys/x", content: []byte("y")}), "keys/x is not what its checksum says"},
		{"a device for a key", forge(t, with(fmt.Sprintf(key, "x")), data, entry{name: "keys/x", kind: tar.TypeChar}), "where keys/x should be"},
		{"no blobs", forge(t, with(`,"blobs":{}`), data, ended(good)), "where blobs/sha256/"},
		{"blobs that are not said to be there", forge(t, good, data, entry{name: "blobs/sha256/x"}), "where backup.json.sha256 should be"},
	} {
		directory := t.TempDir()
		_, _, err := restore(t, tt.file, directory)
		if err == nil || !strings.Contains(err.Error(), tt.says) || len(err.Error()) > 1000 {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
		if info, err := os.Stat(filepath.Join(directory, "metadata.sqlite")); err == nil && info.Size() > int64(len(plain))+1 {
			t.Errorf("%s: %d bytes were written", tt.name, info.Size())
		}
		if left := files(t, directory); len(left) > 0 {
			t.Errorf("%s: %q are left", tt.name, left)
		}
	}
}

// TestHostileDatabases takes no database that would have the registry read or delete what are no blobs, or run what is in it.
func TestHostileDatabases(t *testing.T) {
	for statement, says := range map[string]string{
		`UPDATE blobs SET key = 'token-keys.pem' WHERE size = 0`:                          "keys that are no blob's",
		`INSERT INTO dead_keys (key, delete_after) VALUES ('tls/key.pem', 0)`:             "keys that are no blob's",
		`INSERT INTO small_objects (key, kept_at, content) VALUES ('htpasswd', 0, x'00')`: "bytes under keys that are no blob's",
		`ALTER TABLE small_objects RENAME TO x; ALTER TABLE x RENAME TO SMALL_objects;
		 INSERT INTO small_objects (key, kept_at, content) VALUES ('tls/key.pem', 0, x'00')`: "bytes under keys that are no blob's",
		`INSERT INTO generations (prefix, opened_at) VALUES ('tls', 0)`:     "keys that are no blob's",
		`CREATE TRIGGER t AFTER INSERT ON tags BEGIN DELETE FROM tags; END`: "it has a trigger \"t\" of its own",
		// SQLite does not mind in which letters the kind of an entry is written.
		`CREATE TRIGGER t AFTER INSERT ON tags BEGIN DELETE FROM tags; END; PRAGMA writable_schema = 1;
		 UPDATE sqlite_schema SET type = 'TRIGGER' WHERE name = 't'`: "it has views",
		`CREATE VIEW v AS SELECT 1; PRAGMA writable_schema = 1; UPDATE sqlite_schema SET type = 'View' WHERE name = 'v'`:           "it has views",
		`PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = replace(sql, 'links + 1', 'links') WHERE name = 'quota_links'`: "it has a trigger \"quota_links\" of its own",
		`DROP TABLE backups; ALTER TABLE tags RENAME TO other; DROP TABLE repositories`:                                            "no facts of a registry",
	} {
		s := filled(t)
		path := filepath.Join(t.TempDir(), "snapshot")
		if err := s.facts.WriteSnapshot(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		raw(t, path, statement)
		if err := metadata.CheckSnapshot(t.Context(), path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", statement, err, says)
		}
	}
}

// FuzzReader reads files without blobs, whose databases nobody looks into. No more is written or held than the file says, and what it
// takes is what the file has.
func FuzzReader(f *testing.F) {
	small := zipped(f, []byte("database"))
	data := entry{name: "metadata.sqlite.gz", content: small}
	key := entry{name: "keys/a/b", content: []byte("key")}
	plain := described(small, 8, "")
	keyed := described(small, 8, fmt.Sprintf(`,"keys":[{"name":"keys/a/b","size":3,"sha256":"%x"}]`, sha256.Sum256(key.content)))
	file := forge(f, keyed, data, key, ended(keyed))
	for _, seed := range [][]byte{file, file[:len(file)/2], forge(f, plain, data, ended(plain)), forge(f, keyed, data, ended(keyed)), forge(f, key)} {
		f.Add(seed)
	}
	directory := f.TempDir()
	f.Fuzz(func(t *testing.T, file []byte) {
		in, err := backup.NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		var read int64
		in.Progress = func(done int64) { read = done }
		path := filepath.Join(directory, "metadata.sqlite")
		defer os.Remove(path)
		err = in.Unchecked(context.Background(), path)
		says := in.Manifest.Database.Uncompressed
		if info, failed := os.Stat(path); failed == nil && (info.Size() > says+1 || err == nil && info.Size() != says) {
			t.Errorf("%d bytes were written of %d, %v", info.Size(), says, err)
		}
		if err != nil {
			return
		}
		keys, err := in.Keys()
		if err == nil && len(keys) != len(in.Manifest.Keys) || read > int64(len(file)) {
			t.Errorf("%d keys of %d, %d bytes of %d", len(keys), len(in.Manifest.Keys), read, len(file))
		}
		for _, key := range keys {
			if !filepath.IsLocal(key.Name) || !bytes.Contains(file, key.Data) {
				t.Errorf("%+v", key)
			}
		}
		if err == nil && in.End() == nil && !bytes.Contains(file, []byte("  backup.json\n")) {
			t.Error("it has no end")
		}
	})
}

// raw changes a database behind the store's back.
func raw(t testing.TB, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(statements)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
