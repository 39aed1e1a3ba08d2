package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/atomicfile"
	"berth/config"
	"berth/registry/backup"
)

// tlsKeys begins the names that a backup has for the files of certificateDirectory.
const tlsKeys = "tls/"

// keyFiles says where a registry keeps keys by itself. Files that the configuration names are their owner's to back up.
type keyFiles struct {
	directory    string // of the data
	certificates string // directory
}

func newKeyFiles(c *config.Config, directory string) keyFiles {
	return keyFiles{directory, certificateDirectory(c.HTTP.TLS, directory)}
}

// path returns where a file belongs that has a name in a backup.
func (k keyFiles) path(name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, tlsKeys); ok && fs.ValidPath(rest) {
		return filepath.Join(k.certificates, filepath.FromSlash(rest)), nil
	}
	if name == tokenKeys || name == initialPasswordFile {
		return filepath.Join(k.directory, name), nil
	}
	return "", fmt.Errorf("the backup has a key %.200q that this version knows no place for", name)
}

// read returns the files that there are.
func (k keyFiles) read() (keys []backup.Key, err error) {
	names := []string{tokenKeys, initialPasswordFile}
	root := k.certificates + string(filepath.Separator) // which may be a link
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".") { // not whole yet
			return err
		}
		rest, err := filepath.Rel(root, path)
		names = append(names, tlsKeys+filepath.ToSlash(rest))
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	for _, name := range names {
		key, err := k.readOne(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the keys: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (k keyFiles) readOne(name string) (key backup.Key, err error) {
	path, err := k.path(name)
	if err != nil {
		return key, err
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		return key, err
	}
	key = backup.Key{Name: name, Mode: info.Mode().Perm()}
	key.Data, err = os.ReadFile(path)
	return key, err
}

// plan returns what has to be written to bring keys back. Other keys that are there are kept under another name when they may be replaced,
// and an error else.
func (k keyFiles) plan(keys []backup.Key, replace bool) (files []atomicfile.File, err error) {
	for _, key := range keys {
		path, err := k.path(key.Name)
		if err != nil {
			return nil, err
		}
		old, err := os.ReadFile(path)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case err == nil && bytes.Equal(old, key.Data):
			continue
		case err == nil && !replace:
			return nil, fmt.Errorf("there are other keys at %s: --replace moves them out of the way", path)
		case err == nil:
			files = append(files, atomicfile.File{Path: path + asideSuffix(time.Now()), Data: old, Mode: 0o600})
		}
		files = append(files, atomicfile.File{Path: path, Data: key.Data, Mode: key.Mode&0o044 | 0o600})
	}
	return files, nil
}

// asideSuffix ends the names of what a restore moved out of the way.
func asideSuffix(now time.Time) string { return ".replaced-" + now.UTC().Format("20060102T150405Z") }

// install writes files, in directories that are made if missing.
func install(files []atomicfile.File) error {
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
			return err
		}
	}
	return atomicfile.WriteAll(files...)
}
