package filesystem

import (
	"errors"
	"io/fs"
	"testing"

	"berth/storage"
)

// meeting is a file system on which a sync of a file ends when one of its directory has begun.
type meeting struct {
	OS
	begun        chan struct{}
	content, dir error // of the syncs
}

type meetingFile struct {
	File
	m *meeting
}

func (m *meeting) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := m.OS.OpenFile(name, flag, perm)
	return meetingFile{f, m}, err
}

func (m *meeting) SyncDir(string) error {
	select {
	case m.begun <- struct{}{}:
	default: // of the way to the directory
	}
	return m.dir
}

func (f meetingFile) Sync() error {
	<-f.m.begun
	return f.m.content
}

// TestSyncsAtOnce syncs a file while its directory is synced. Either may fail.
func TestSyncsAtOnce(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name         string
		content, dir error
	}{
		{"both are fine", nil, nil},
		{"the file fails", broken, nil},
		{"the directory fails", nil, broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(Config{Root: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			m := &meeting{begun: make(chan struct{}, 1), content: tt.content, dir: tt.dir}
			s.fs, s.dirs = m, newDirectories(m, s.root)
			w, err := s.Write(t.Context(), storage.Checkpoint{Key: "object"})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if _, err := w.Write([]byte("content")); err != nil {
				t.Fatal(err)
			}
			want := errors.Join(tt.content, tt.dir)
			for range 2 { // a failure ends the writer
				if _, err := w.Checkpoint(t.Context()); (err == nil) != (want == nil) || want != nil && !errors.Is(err, broken) {
					t.Errorf("Checkpoint: %v, want %v", err, want)
				}
			}
		})
	}
}
