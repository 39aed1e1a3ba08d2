package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/atomicfile"
	"berth/config"
	"berth/registry/backup"
	"berth/storage/metadata"

	"github.com/spf13/cobra"
)

// keeper takes the snapshots of a registry.
type keeper struct {
	*backup.Keeper
	sqlite bool // which has snapshots
	log    *slog.Logger
}

func newKeeper(c *config.Config, s *stores, log *slog.Logger) keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	settings := c.Metadata.SQLite.Backup
	return keeper{backup.New(backup.Config{
		Metadata:  s.facts,
		Blobs:     s.blobs,
		Directory: filepath.Dir(metadataPath(c, s.directory)),
		Interval:  settings.Interval,
		Keep:      settings.Keep,
		Secrets:   secretSettings(),
		Keys:      newKeyFiles(c, s.directory).read,
		Version:   versionString(),
		Log:       log,
	}), c.Metadata.Postgres.DSN == "", log}
}

// tasks are what serve has to run.
func (k keeper) tasks() []func(context.Context) {
	if !k.sqlite {
		return nil
	}
	return []func(context.Context){k.Run}
}

// serve is the part of the API on the socket.
func (k keeper) serve(mux *http.ServeMux) {
	mux.HandleFunc("POST /backup", func(w http.ResponseWriter, r *http.Request) {
		b, err := k.Take(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(b) // whoever asked may be gone
	})
	mux.HandleFunc("POST /backup/file", k.serveFile)
}

const (
	// exportHeader has the exportSummary of a file, in JSON.
	exportHeader = "Berth-Backup"
	// errorTrailer says behind a body why it is not whole.
	errorTrailer = "Berth-Error"
)

// exportSummary is what is told of a file.
type exportSummary struct {
	Size  int64         `json:"size"` // bytes of the entries
	Blobs *backup.Blobs `json:"blobs"`
	Keys  int           `json:"keys"`
}

func (k keeper) serveFile(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	contents := backup.Contents{Blobs: query.Has("blobs"), Keys: query.Has("keys")}
	begun := false
	err := k.backupTo(r.Context(), contents, func(s exportSummary) io.Writer {
		summary, _ := json.Marshal(s) // which has nothing that could fail
		w.Header().Set(exportHeader, string(summary))
		w.Header().Set("Trailer", errorTrailer)
		begun = true
		_ = http.NewResponseController(w).Flush() // who is gone is noticed below
		return w
	})
	switch {
	case r.Context().Err() != nil: // nobody is there to be told
		k.log.Warn("a backup to a file was cut off", "error", err)
	case err != nil && !begun:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case err != nil:
		w.Header().Set(errorTrailer, err.Error())
	default:
		k.log.Info("backup written to a file", "blobs", contents.Blobs, "keys", contents.Keys)
	}
}

// backupTo writes a file to what open returns.
func (k keeper) backupTo(ctx context.Context, contents backup.Contents, open func(exportSummary) io.Writer) (err error) {
	e, err := k.Export(ctx, contents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return e.Write(ctx, open(exportSummary{e.Manifest.Size(), e.Manifest.Blobs, len(e.Manifest.Keys)}))
}

// backingUp is how `registry backup` was called.
type backingUp struct {
	to string
	backup.Contents
}

func backupCommand(s streams) *cobra.Command {
	var b backingUp
	command := &cobra.Command{
		Use:   "backup [CONFIG] [--to FILE|s3://BUCKET/KEY]",
		Short: "Back up the facts now, and with --to the blobs and keys, too",
		Long: `Back up the registry, while it serves or not: a running server does it itself. registry restore brings it back.

Without --to, store a snapshot of the SQLite database beside the blobs now, instead of at the next time that
metadata.sqlite.backup.interval says. The bytes of all blobs that it names are kept as long as it is; when there are more than
metadata.sqlite.backup.keep, the oldest goes.

With --to, write a file, which is a tar: the database, and, if asked for, exactly the blobs that it names, and keys. A file of that name
is replaced when the new one is whole and on the disk, and stays as it is otherwise. --to - writes to standard output, for a program that
takes it elsewhere. --to s3://BUCKET/KEY writes it to a bucket, in parts, without a file here; it is seen when it is whole, and an object of
that key stays as it is otherwise. The endpoint, the credentials, the encryption and the storage class are those of storage.s3 where the
registry is in S3 itself, but its own objects are refused: name another bucket, or a key outside of storage.s3.rootdirectory. Else the
environment says them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ENDPOINT_URL for a server that is not AWS):

  registry backup --with-blobs --to s3://backups/registry.tar

Whoever reads the file has every image in it, so that only its owner may. Keys are left out unless --with-keys: those of the CA, of the
server's certificate and of tokens, and the password of the first start, if its file is still there. Passwords and access tokens work
after a restore without them, since their hashes are facts; machines have to trust a new CA. Files that the configuration names, and the
configuration itself, are never in it. CONFIG is the argument, and the file has a flag.

The exit code is 0 when the backup is whole, and 1 when there is none.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			if err := refuseTarget(args, "--to"); err != nil {
				return err
			}
			c, _, err := s.loadConfig(args)
			switch {
			case err != nil:
				return err
			case c.Metadata.Postgres.DSN != "":
				return errPostgresBackup
			case command.Flags().Changed("to"):
				return s.backupFile(command.Context(), c, b)
			case b.Blobs || b.Keys:
				return errors.New("--with-blobs and --with-keys are for a file: name it with --to; a snapshot beside the blobs needs neither")
			}
			return s.backup(command.Context(), c)
		},
	}
	command.Flags().StringVar(&b.to, "to", "", "write a file, an object s3://BUCKET/KEY, or to standard output with -")
	command.Flags().BoolVar(&b.Blobs, "with-blobs", false, "with the bytes of all blobs")
	command.Flags().BoolVar(&b.Keys, "with-keys", false, "with the keys, which whoever reads the file then has")
	return command
}

var errPostgresBackup = errors.New(
	"the facts are in PostgreSQL, which has backups of its own (pg_basebackup, pg_dump): docs/guides/backup.md says how")

// backup has the running server take a snapshot, or takes it by itself when there is none.
func (s streams) backup(ctx context.Context, c *config.Config) error {
	b, err := s.takeSnapshot(ctx, c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s (%s)\n", filepath.Base(b.Name), bytesString(b.Size))
	return err
}

func (s streams) takeSnapshot(ctx context.Context, c *config.Config) (b metadata.Backup, err error) {
	response, err := s.askForBackup(ctx, c, "/backup")
	if errors.Is(err, errNoServer) {
		stores, err := s.openForBackup(ctx, c)
		if err != nil {
			return b, err
		}
		b, err = newKeeper(c, stores, nil).Take(ctx)
		return b, errors.Join(err, stores.close())
	}
	if err != nil {
		return b, err
	}
	defer response.Body.Close()
	return b, json.NewDecoder(response.Body).Decode(&b)
}

// openForBackup opens the stores that there are: it makes no database.
func (s streams) openForBackup(ctx context.Context, c *config.Config) (*stores, error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(metadataPath(c, directory)); err != nil {
		return nil, fmt.Errorf("there is no registry to back up: %w", err)
	}
	return openStores(ctx, c, s.environ)
}

// askForBackup asks the running server, and fails unless it begins to answer. It fails with errNoServer.
func (s streams) askForBackup(ctx context.Context, c *config.Config, path string) (*http.Response, error) {
	directory, err := dataDirectory(c, s.environ)
	if err != nil {
		return nil, err
	}
	response, err := adminRequest(ctx, adminSocket(c, directory), http.MethodPost, path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the running registry: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil, errors.New("the running registry is of an older version: restart it")
	}
	why, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // the status says enough
	return nil, fmt.Errorf("the running registry: %s", strings.TrimSpace(string(why)))
}

// backupFile writes a file, or to standard output.
func (s streams) backupFile(ctx context.Context, c *config.Config, b backingUp) (err error) {
	var summary exportSummary
	write := func(w io.Writer) (err error) {
		summary, err = s.backupTo(ctx, c, b.Contents, w)
		return err
	}
	switch b.to {
	case "-":
		return write(s.out)
	case "":
		return errors.New("--to needs the name of a file, or - for standard output")
	}
	if err := s.writeTo(ctx, c, b.to, write); err != nil {
		return err
	}
	what := []string{"facts"}
	if summary.Blobs != nil {
		what = append(what, fmt.Sprintf("%d blobs", summary.Blobs.Count+summary.Blobs.Inline))
	}
	if b.Keys {
		what = append(what, fmt.Sprintf("%d files with keys", summary.Keys))
	}
	_, err = fmt.Fprintf(s.out, "%s (%s: %s)\n", b.to, bytesString(summary.Size), strings.Join(what, ", "))
	return err
}

// writeTo writes a file, or an object in S3, that is there when it is whole.
func (s streams) writeTo(ctx context.Context, c *config.Config, to string, write func(io.Writer) error) error {
	if !strings.HasPrefix(to, bucketScheme) {
		return atomicfile.Stream(to, 0o600, write)
	}
	o, err := s.openObject(ctx, c, to, true)
	if err != nil {
		return err
	}
	return o.stream(ctx, write)
}

// backupTo has the running server write a file to w, or writes it by itself when there is none.
func (s streams) backupTo(ctx context.Context, c *config.Config, contents backup.Contents, w io.Writer) (summary exportSummary, err error) {
	out := &progressWriter{to: w, streams: s}
	defer out.done()
	query := url.Values{}
	if contents.Blobs {
		query.Set("blobs", "")
	}
	if contents.Keys {
		query.Set("keys", "")
	}
	response, err := s.askForBackup(ctx, c, "/backup/file?"+query.Encode())
	if errors.Is(err, errNoServer) {
		return s.exportOffline(ctx, c, contents, out)
	}
	if err != nil {
		return summary, err
	}
	defer response.Body.Close()
	if err := json.Unmarshal([]byte(response.Header.Get(exportHeader)), &summary); err != nil {
		return summary, fmt.Errorf("read the server's answer: %w", err)
	}
	out.total = summary.Size
	if _, err := io.Copy(out, response.Body); err != nil {
		return summary, fmt.Errorf("the running registry stopped, or the backup could not be written: %w", err)
	}
	if why := response.Trailer.Get(errorTrailer); why != "" {
		return summary, fmt.Errorf("the running registry: %s", why)
	}
	return summary, nil
}

func (s streams) exportOffline(
	ctx context.Context, c *config.Config, contents backup.Contents, out *progressWriter,
) (summary exportSummary, err error) {
	stores, err := s.openForBackup(ctx, c)
	if err != nil {
		return summary, err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	err = newKeeper(c, stores, nil).backupTo(ctx, contents, func(made exportSummary) io.Writer {
		summary, out.total = made, made.Size
		return out
	})
	return summary, err
}

// progressWriter shows on a terminal how much of total was written.
type progressWriter struct {
	to      io.Writer
	streams streams
	total   int64
	written int64
	shown   time.Time
}

// Write implements io.Writer.
func (p *progressWriter) Write(data []byte) (int, error) {
	n, err := p.to.Write(data)
	p.written += int64(n)
	if time.Since(p.shown) > progressEvery {
		p.shown = time.Now()
		p.streams.showBytes(p.written, p.total)
	}
	return n, err
}

func (p *progressWriter) done() {
	if !p.shown.IsZero() && isTerminal(p.streams.errOut) {
		fmt.Fprintln(p.streams.errOut)
	}
}

// progressEvery is how often progress is shown that is made in small steps.
const progressEvery = 200 * time.Millisecond

// showBytes shows on a terminal how far something is.
func (s streams) showBytes(done, total int64) {
	if isTerminal(s.errOut) {
		fmt.Fprintf(s.errOut, "\r%s of %s   ", bytesString(min(done, total)), bytesString(total))
	}
}
