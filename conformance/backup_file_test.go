package conformance

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
	"berth/storage/s3/s3test"

	"github.com/opencontainers/go-digest"

	_ "modernc.org/sqlite"
)

// command returns a command of the registry's, to be started.
func (b *berth) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.t.Context(), b.Program, args...)
	cmd.Dir, cmd.Env = b.Dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.Dir}, b.Env...)
	return cmd
}

// elsewhere returns the same registry with other stores, which does not run.
func elsewhere(t *testing.T, o options) *berth {
	t.Helper()
	return &berth{t: t, root: o.root, Server: &server.Server{Config: configure(t, o)}}
}

// backups returns how many snapshots a registry keeps, or is at.
func (b *berth) backups() (n int) {
	b.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(b.root, "metadata.sqlite")+"?_pragma=busy_timeout(10000)&mode=ro")
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(b.t.Context(), `SELECT count(*) FROM backups`).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// images pushes so many images of two blobs, each under a tag, and returns what was stored.
func (b *berth) images(repository string, count int) *ledger {
	b.t.Helper()
	c, book := b.client(), newLedger()
	p := &pusher{client: c, repository: repository, ledger: book, rand: rand.New(rand.NewPCG(1, 2))}
	for range count {
		if err := p.pushImage(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
		p.images++
	}
	return book
}

// stores are where a test has its registries: in a directory, or in S3 but for the facts.
type stores struct {
	name string
	// env returns what a new registry with that data directory needs.
	env func(root string) []string
}

func allStores(t *testing.T) []stores {
	s3 := s3test.Start(t, s3test.Versity)
	return []stores{
		{"files", func(string) []string { return nil }},
		{"S3", func(root string) []string { return bucket(t, s3, s3test.NewProxy(t, s3), root) }},
	}
}

// TestBackupFile backs a registry up to a file that is read slowly, while others push and the collector runs as often as it can. Half of
// the images are deleted when the snapshot was taken and the first bytes were read. What is restored in an empty place has them all.
func TestBackupFile(t *testing.T) {
	t.Parallel()
	all := allStores(t)
	for i, from := range all {
		to := all[1-i]
		t.Run("from "+from.name+" to "+to.name, func(t *testing.T) { testBackupFile(t, from, to) })
	}
}

func testBackupFile(t *testing.T, from, to stores) {
	const repository = "backup/kept"
	root, ctx := t.TempDir(), t.Context()
	b := start(t, options{root: root, env: append(from.env(root), append(collecting(), "REGISTRY_TRASH_RETAIN=0s")...)})
	c := b.client()
	book := b.images(repository, 30)
	large := client.Content{Seed: 7, Size: 12 << 20} // more than waits in pipes and sockets
	if err := c.PushBlob(ctx, repository, large.Digest(), large.Reader(0), large.Size); err != nil {
		t.Fatal(err)
	}
	book.blobStored(repository, large.Digest(), large)
	b.do("backup") // a snapshot of the blob store here, which is not where the file is brought back
	pushing, stop := context.WithCancel(ctx)
	others := newLedger()
	finish := work(pushing, stop, hire(b, others, 1, false))
	t.Cleanup(func() { stop(); finish() })

	for images := 0; images < 20 && pushing.Err() == nil; _, images, _ = others.size() { // so that some are in the backup and some are not
		time.Sleep(10 * time.Millisecond)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "backup.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := b.command("backup", "--with-blobs", "--to", "-")
	var said bytes.Buffer
	cmd.Stderr = &said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(out, pipe, 512); err != nil { // the rest waits
		t.Fatalf("%v\n%s", err, &said)
	}
	for n := range book.manifests {
		if err := c.DeleteManifest(ctx, repository, n.reference); err != nil {
			t.Fatal(err)
		}
	}
	for n := range book.blobs {
		if err := c.DeleteBlob(ctx, repository, digest.Digest(n.reference)); err != nil && client.Status(err) != http.StatusNotFound {
			t.Fatal(err)
		}
	}
	time.Sleep(3 * time.Second) // the grace is over, and the reaper came many times
	b.do("garbage-collect")
	if n := b.backups(); n != 2 {
		t.Errorf("%d backups are kept or being made", n)
	}
	if _, err := io.Copy(out, pipe); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || said.Len() > 0 {
		t.Fatalf("%v\n%s", err, &said)
	}
	stop()
	for _, err := range finish() {
		t.Error(err)
	}
	b.fsck("--rehash")
	if n := b.backups(); n != 1 {
		t.Errorf("%d backups are kept", n)
	}
	b.stop()

	other := t.TempDir()
	restored := elsewhere(t, options{root: other, env: to.env(other)})
	if said := restored.do("restore", "--from", out.Name()); !strings.Contains(said, ": 0 findings") {
		t.Error(said)
	}
	if n := restored.backups(); n != 0 {
		t.Errorf("%d backups are kept that are not there", n)
	}
	restored.restart()
	t.Cleanup(restored.Kill)
	for _, err := range book.verify(ctx, restored.client()) {
		t.Error(err)
	}
	pushed := verifySome(t, restored.client(), others)
	blobs, manifests, _ := book.size()
	_, all, _ := others.size()
	t.Logf("%d blobs and %d manifests that were deleted are there, and %d tags of the %d images of those who pushed meanwhile", blobs, manifests, pushed, all)
	if pushed < 20 || pushed > all {
		t.Error("that is too few or too many for this test to mean anything")
	}
	restored.fsck("--rehash")
	push := client.Content{Seed: 8, Size: 1000}
	if err := restored.client().PushBlob(ctx, repository, push.Digest(), push.Reader(0), push.Size); err != nil {
		t.Errorf("a push to the restored registry: %v", err)
	}
}

// verifySome compares the images that a registry has, which those who pushed had pushed or were at, and returns how many there are.
func verifySome(t *testing.T, c *client.Client, pushed *ledger) (images int) {
	t.Helper()
	for n, history := range pushed.tags {
		body, err := c.Manifest(t.Context(), n.repository, n.reference)
		if client.Status(err) == http.StatusNotFound {
			continue // it came later
		}
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(body)
		known, ok := pushed.manifests[name{n.repository, d.String()}]
		if n.reference != "latest" && (!ok || !bytes.Equal(known, body)) && !slices.Contains(history.attempted, d) {
			t.Errorf("%s:%s is %s, which nobody pushed", n.repository, n.reference, d)
		}
		images++
	}
	for n, content := range pushed.blobs {
		err := verifyBlob(t.Context(), c, n, content)
		if err != nil && client.Status(err) != http.StatusNotFound {
			t.Error(err)
		}
	}
	return images
}

// TestBackupKilled kills the server and the command in the middle of a backup. Nothing but the file of an earlier backup is there, and
// nothing keeps bytes any more once the registry runs again.
func TestBackupKilled(t *testing.T) {
	t.Parallel()
	s3 := s3test.Start(t, s3test.Versity)
	p, root, target := s3test.NewProxy(t, s3), t.TempDir(), t.TempDir()
	b := start(t, options{root: root, env: bucket(t, s3, p, root)})
	b.images("app", 3)
	file := filepath.Join(target, "backup.tar")
	b.do("backup", "--with-blobs", "--to", file)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	half := func() (cmd *exec.Cmd, said *bytes.Buffer) {
		t.Helper()
		cmd, said = b.command("backup", "--with-blobs", "--to", file), new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = said, said
		p.Fail("GetObject", s3test.Held, 1)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p.Arrived()
		if n := b.backups(); n != 1 {
			t.Errorf("%d backups are being made", n)
		}
		return cmd, said
	}
	intact := func(who string, others int) {
		t.Helper()
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, good) {
			t.Errorf("%s was killed: the earlier file is another, %v", who, err)
		}
		if entries, err := os.ReadDir(target); err != nil || len(entries) != 1+others {
			t.Errorf("%s was killed: there are %v, %v", who, entries, err)
		}
	}
	cmd, said := half()
	b.Kill()
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "the running registry stopped") {
		t.Errorf("%v\n%s", err, said)
	}
	p.Release()
	intact("the server", 0)
	b.restart()
	none := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); b.backups() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a backup that was cut off is still kept")
			}
		}
		if left, err := filepath.Glob(filepath.Join(root, ".snapshot-*")); err != nil || len(left) > 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	}
	none()
	cmd, _ = half()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	p.Release()
	none()
	intact("the command", 1) // what it had written so far, under another name
	b.do("backup", "--with-blobs", "--to", file)
	b.fsck("--rehash")
}

// TestRestoreKilled kills a restore in the middle, and begins again.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	b := start(t, options{})
	book, file := b.images("app", 5), filepath.Join(t.TempDir(), "backup.tar")
	b.do("backup", "--with-blobs", "--to", file)
	s3, root := s3test.Start(t, s3test.Versity), t.TempDir()
	p := s3test.NewProxy(t, s3)
	restored := elsewhere(t, options{root: root, env: bucket(t, s3, p, root)})
	for range 3 {
		cmd := restored.command("restore", "--from", file)
		p.Fail("PutObject", s3test.None, 2)
		p.Fail("PutObject", s3test.Held, 1)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p.Arrived()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		p.Release()
		if out, err := restored.try("serve"); err == nil || !strings.Contains(out, "registry restore") {
			t.Errorf("a registry starts on half of its blobs: %v %s", err, out)
		}
	}
	if out := restored.do("restore", "--from", file); !strings.Contains(out, ": 0 findings") {
		t.Error(out)
	}
	restored.restart()
	t.Cleanup(restored.Kill)
	for _, err := range book.verify(t.Context(), restored.client()) {
		t.Error(err)
	}
	restored.fsck("--rehash")
}

// TestBackupDiskFull has no space for the file, for the snapshot, and for what is restored.
func TestBackupDiskFull(t *testing.T) {
	t.Parallel()
	small, root := smallDisk(t, 4<<20), t.TempDir()
	b := start(t, options{root: root})
	content := client.Content{Seed: 1, Size: 16 << 20}
	if err := b.client().PushBlob(t.Context(), "app", content.Digest(), content.Reader(0), content.Size); err != nil {
		t.Fatal(err)
	}
	fails := func(b *berth, args ...string) {
		t.Helper()
		if out, err := b.try(args...); err == nil || !strings.Contains(out, "no space left") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	fails(b, "backup", "--with-blobs", "--to", filepath.Join(small, "backup.tar"))
	if entries, err := os.ReadDir(small); err != nil || len(entries) > 0 {
		t.Errorf("there are %v, %v", entries, err)
	}
	b.stop()
	fails(b, "backup", "--with-blobs", "--to", filepath.Join(small, "backup.tar"))
	file := filepath.Join(t.TempDir(), "backup.tar")
	b.do("backup", "--with-blobs", "--to", file)
	disk := smallDisk(t, 12<<20)
	there := elsewhere(t, options{root: filepath.Join(disk, "data"), env: []string{"REGISTRY_STORAGE_FILESYSTEM_MINFREE=0"}})
	fails(there, "restore", "--from", file)
	err := filepath.WalkDir(there.root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.HasSuffix(path, ".lock") {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	full := smallDisk(t, 64<<20)
	crowded := start(t, options{root: full, env: []string{"REGISTRY_STORAGE_FILESYSTEM_MINFREE=0"}})
	crowded.images("app", 20)
	fill(t, full, 0)
	crowded.do("backup", "--to", file) // with what is kept in reserve
	if err := os.Rename(filepath.Join(full, "ballast"), filepath.Join(full, "first")); err != nil {
		t.Fatal(err)
	}
	fill(t, full, 0)
	fails(crowded, "backup", "--to", file)
	for _, name := range []string{"first", "ballast"} {
		if err := os.Remove(filepath.Join(full, name)); err != nil {
			t.Fatal(err)
		}
	}
	crowded.do("backup", "--with-blobs", "--to", file)
	crowded.fsck()
}

// TestRestoreBesideBlobs brings facts back beside the blobs that are there, and repairs some of these from a file.
func TestRestoreBesideBlobs(t *testing.T) {
	t.Parallel()
	for _, where := range allStores(t) {
		t.Run(where.name, func(t *testing.T) {
			root := t.TempDir()
			b := start(t, options{root: root, env: where.env(root)})
			book := b.images("app", 10)
			directory := t.TempDir()
			facts, all := filepath.Join(directory, "facts.tar"), filepath.Join(directory, "all.tar")
			b.do("backup", "--to", facts)
			b.do("backup", "--with-blobs", "--to", all)
			late := client.Content{Seed: 99, Size: inline + 1}
			if err := b.client().PushBlob(t.Context(), "app", late.Digest(), late.Reader(0), late.Size); err != nil {
				t.Fatal(err)
			}
			b.stop()
			for _, file := range []string{facts, all} {
				out := b.do("restore", "--replace", "--from", file)
				for _, want := range []string{" objects are not in the backup", "the old database is ", ": 0 findings"} {
					if !strings.Contains(out, want) {
						t.Errorf("%q is not in %s", want, out)
					}
				}
				b.restart()
				for _, err := range book.verify(t.Context(), b.client()) {
					t.Error(err)
				}
				b.stop()
			}
			if where.name == "files" {
				damaged := fileOfSize(t, root, largest(book))
				if err := changeByte(damaged); err != nil {
					t.Fatal(err)
				}
				b.do("restore", "--replace", "--from", all)
				b.fsck("--rehash")
			}
			var report struct{ Findings []any }
			empty := elsewhere(t, options{root: filepath.Join(directory, "empty")})
			out, err := empty.command("restore", "--json", "--from", facts).Output()
			if jsonErr := json.Unmarshal(out, &report); err == nil || jsonErr != nil || len(report.Findings) != where.outside(book) {
				t.Errorf("%d blobs of %d are missing: %v, %v\n%s", len(report.Findings), where.outside(book), err, jsonErr, out)
			}
		})
	}
}

// inline is how many bytes a blob has at the most that is with the facts, where those are in SQLite and others in files.
const inline = 16 << 10

// outside is how many blobs are not with the facts.
func (s stores) outside(book *ledger) (n int) {
	for _, content := range book.blobs {
		if s.name != "files" || content.Size > inline {
			n++
		}
	}
	return n
}

func largest(book *ledger) (size int64) {
	for _, content := range book.blobs {
		size = max(size, content.Size)
	}
	return size
}
