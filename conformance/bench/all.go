package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// comparison is registries that are measured against each other.
type comparison struct {
	settings settings
	dir      string
	targets  []*target
	stderr   io.Writer
}

// measureAll measures every row with all registries and prints the tables.
func measureAll(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	apart(dir)
	c := &comparison{settings: s, dir: dir, stderr: stderr}
	defer c.close()
	for _, l := range s.registries {
		t, err := l.open(ctx, filepath.Join(dir, l.name))
		if err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		c.targets = append(c.targets, t)
	}
	table := newTable(c.targets)
	for _, g := range s.selected(groups(s)) {
		if err := c.fill(ctx, g); err != nil {
			return err
		}
		results, err := turns{settings: s, targets: c.targets, stderr: stderr}.measure(ctx, g.rows)
		if err != nil {
			return err
		}
		table.add(g.rows, results)
		c.closeLocked()
	}
	if err := c.addFootprint(ctx, table); err != nil {
		return err
	}
	return table.print(stdout)
}

// fill prepares what a group of rows needs.
func (c *comparison) fill(ctx context.Context, g group) error {
	password := false
	for _, r := range g.rows {
		password = password || r.password
	}
	for i, t := range c.targets {
		fmt.Fprintf(c.stderr, "preparing %s for: %s\n", t.name, g.rows[0].name)
		begin := time.Now()
		if err := g.fill(ctx, t, c.settings); err != nil {
			return fmt.Errorf("prepare %s: %w", t.name, err)
		}
		fmt.Fprintf(c.stderr, "that took %s\n", time.Since(begin).Round(time.Second))
		if l := c.settings.registries[i]; password && l.locked != nil {
			if err := c.lock(ctx, t, l, g); err != nil {
				return fmt.Errorf("%s with passwords: %w", t.name, err)
			}
		}
	}
	return nil
}

// lock starts a registry once more, so that it asks for a password.
func (c *comparison) lock(ctx context.Context, t *target, l launcher, g group) (err error) {
	dir := filepath.Join(c.dir, l.name+"-locked")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if t.locked, err = l.locked(ctx, dir); err != nil {
		return err
	}
	return g.fill(ctx, t.locked, c.settings)
}

func (c *comparison) closeLocked() {
	for _, t := range c.targets {
		if t.locked != nil {
			t.locked.server.Kill()
			t.locked = nil
		}
	}
}

func (c *comparison) close() {
	c.closeLocked()
	for _, t := range c.targets {
		if t.server != nil {
			t.server.Kill()
		}
	}
	_ = os.RemoveAll(c.dir) // it is a temporary directory
}

// apart tells ext4 to put the directories in dir far from each other. A file that was deleted slows the making of files near it for seconds, and
// what one registry deletes is not to slow another. Elsewhere it does nothing.
func apart(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	const topDirectory = 0x20000 // FS_TOPDIR_FL of linux/fs.h
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|topDirectory)
	}
}
