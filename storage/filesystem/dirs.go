package filesystem

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
)

// makeDirs makes dir and its missing parents below top. Should top itself be missing, then it is for a reason, like a
// disk that is not mounted, and making it would hide that.
func makeDirs(fsys FS, dir, top string) error {
	parent := filepath.Dir(dir)
	err := fsys.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrNotExist) && parent != top {
		if err := makeDirs(fsys, parent, top); err != nil {
			return err
		}
		err = fsys.Mkdir(dir, dirMode)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return fsys.SyncDir(parent)
}

// directories syncs the directories of a store, none more often than it has to.
type directories struct {
	fs   FS
	root string

	mu      sync.Mutex
	latest  map[string]*syncRound // the newest sync of a directory, while it waits or runs
	durable map[string]bool       // directories whose way from root is durable; one entry each, and they are never removed
}

// syncRound is one sync of a directory for everyone who asked for it before it began.
type syncRound struct {
	begun bool // nobody may join any more
	done  chan struct{}
	err   error
}

func newDirectories(fsys FS, root string) *directories {
	return &directories{fs: fsys, root: root, latest: map[string]*syncRound{}, durable: map[string]bool{}}
}

// syncEntry makes every change of dir's entries that was made before the call durable, and dir itself.
func (d *directories) syncEntry(dir string) error {
	if err := d.ensure(dir); err != nil {
		return err
	}
	return d.sync(dir)
}

// ensure makes the way from root to dir durable. It trusts no directory that it finds, once per process: whoever made it
// may have been killed before the sync, or may be about to do it.
func (d *directories) ensure(dir string) error {
	if dir == d.root || d.isDurable(dir) {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := d.ensure(parent); err != nil {
		return err
	}
	if err := d.sync(parent); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable[dir] = true
	return nil
}

func (d *directories) isDurable(dir string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.durable[dir]
}

// sync syncs dir. A sync that began before the call may have missed what the caller did, but one that waits for it to
// end will not: those who come meanwhile share that one.
func (d *directories) sync(dir string) error {
	d.mu.Lock()
	before := d.latest[dir]
	if before != nil && !before.begun {
		d.mu.Unlock()
		<-before.done
		return before.err
	}
	round := &syncRound{done: make(chan struct{})}
	d.latest[dir] = round
	d.mu.Unlock()

	if before != nil {
		<-before.done
	}
	d.run(dir, round)
	return round.err
}

func (d *directories) run(dir string, round *syncRound) {
	d.mu.Lock()
	round.begun = true
	d.mu.Unlock()

	round.err = d.fs.SyncDir(dir)

	d.mu.Lock()
	if d.latest[dir] == round {
		delete(d.latest, dir)
	}
	d.mu.Unlock()
	close(round.done)
}
