package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"berth/config"
	"berth/storage/diskcache"
	"berth/storage/filesystem"
	"berth/storage/s3"

	"github.com/VictoriaMetrics/metrics"
)

// TestCacheHidesNothing holds the cache to have every method of the store that it stands in front of: others look for them.
func TestCacheHidesNothing(t *testing.T) {
	cache := reflect.TypeFor[*diskcache.Cache]()
	for method := range reflect.TypeFor[*s3.Store]().Methods() {
		if _, ok := cache.MethodByName(method.Name); !ok {
			t.Errorf("storage/s3 can %s, and behind the cache nobody knows", method.Name)
		}
	}
}

// elsewhere is a blob store that is worth a cache.
type elsewhere struct{ diskcache.Backend }

func cached(directory string) config.Storage {
	return config.Storage{
		Cache:    config.Cache{Disk: config.DiskCache{Directory: directory, Size: 1 << 20}},
		Redirect: config.Redirect{Disable: true},
	}
}

func TestOpenCache(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "cache")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	redirecting, without := cached(directory), cached(directory)
	redirecting.Redirect.Disable = false
	without.Cache = config.Cache{}
	for name, tt := range map[string]struct {
		c    config.Storage
		used bool
		line string
	}{
		"configured":         {cached(directory), true, ""},
		"not configured":     {without, false, ""},
		"nobody would read":  {redirecting, false, ""},
		"no place for files": {cached(filepath.Join(file, "cache")), false, "the disk cache can't be used"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := &stores{blobs: elsewhere{}}
			if err := s.openCache(t.Context(), tt.c, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
				t.Fatal(err)
			}
			if (s.cache != nil) != tt.used || !strings.Contains(log.String(), tt.line) || tt.line == "" && log.Len() > 0 {
				t.Errorf("cache %v, log %s", s.cache, log.String())
			}
			if _, ok := s.served().(*diskcache.Cache); ok != tt.used {
				t.Errorf("%T is served", s.served())
			}
			if s.cache != nil {
				if err := s.cache.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestNoCacheOfFiles keeps files from being copied to other files.
func TestNoCacheOfFiles(t *testing.T) {
	files, err := filesystem.Open(filesystem.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &stores{blobs: files}
	if err := s.openCache(t.Context(), cached(t.TempDir()), slog.Default()); err != nil || s.cache != nil {
		t.Errorf("%v, %v", s.cache, err)
	}
}

func TestCacheOfAnother(t *testing.T) {
	directory := t.TempDir()
	first := &stores{blobs: elsewhere{}}
	if err := first.openCache(t.Context(), cached(directory), slog.Default()); err != nil {
		t.Fatal(err)
	}
	defer first.cache.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that it does not wait
	second := &stores{blobs: elsewhere{}}
	if err := second.openCache(ctx, cached(directory), slog.Default()); err == nil || second.cache != nil {
		t.Errorf("%v, %v", second.cache, err)
	}
}

func TestCountCache(t *testing.T) {
	s := &stores{blobs: elsewhere{}}
	s.countCache(metrics.NewSet()) // there is nothing to count
	if err := s.openCache(t.Context(), cached(t.TempDir()), slog.Default()); err != nil {
		t.Fatal(err)
	}
	defer s.cache.Close()
	s.countCache(nil)
	set := metrics.NewSet()
	s.countCache(set)
	var page bytes.Buffer
	set.WritePrometheus(&page)
	for _, want := range []string{"registry_disk_cache_hits_total 0\n", "registry_disk_cache_misses_total 0\n", "registry_disk_cache_bytes 0\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %s in\n%s", want, page.String())
		}
	}
}
