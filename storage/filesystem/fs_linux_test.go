package filesystem_test

import (
	"errors"
	"io/fs"
	"testing"

	"berth/storage/filesystem"
)

// TestSyncDirUnsupported syncs a directory of a file system whose directories have no sync.
func TestSyncDirUnsupported(t *testing.T) {
	if err := (filesystem.OS{}).SyncDir("/proc"); err != nil {
		t.Error(err)
	}
	if err := (filesystem.OS{}).SyncDir("/proc/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
