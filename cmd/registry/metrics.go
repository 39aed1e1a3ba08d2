package main

import (
	"context"
	"crypto/x509"
	"time"

	"berth/config"
	"berth/registry/gc"
	"berth/storage/filesystem"

	"github.com/VictoriaMetrics/metrics"
)

// countServer adds to the metrics, if there are any, what goes wrong in a server that nobody looks at for a year: a full disk, a collector
// that does not work, a certificate that is not renewed, a database that does not answer.
func (s *stores) countServer(set *metrics.Set, c *config.Config, h *health, reaper *gc.Reaper, leaf func() *x509.Certificate) {
	if set == nil {
		return
	}
	set.NewGauge("registry_metadata_up", func() float64 {
		if h.check(context.Background()) != nil {
			return 0
		}
		return 1
	})
	set.NewGauge(`registry_disk_free_bytes{of="data"}`, func() float64 { return freeBytes(s.directory) })
	if c.Metadata.Postgres.DSN == "" {
		set.NewGauge(`registry_disk_free_bytes{of="metadata"}`, func() float64 { return freeBytes(metadataPath(c, s.directory)) })
	}
	if c.Storage.Driver != "s3" {
		set.NewGauge("registry_disk_min_free_bytes", func() float64 { return float64(c.Storage.FileSystem.MinFree) })
	}
	if c.HTTP.TLS.Mode != config.TLSOff {
		set.NewGauge("registry_certificate_expiry_timestamp_seconds", func() float64 {
			if certificate := leaf(); certificate != nil {
				return seconds(certificate.NotAfter)
			}
			return 0
		})
	}
	countCollector(set, reaper)
}

// countCollector adds what the collector did since the server started.
func countCollector(set *metrics.Set, reaper *gc.Reaper) {
	set.NewGauge("registry_gc_last_success_timestamp_seconds", func() float64 { return seconds(reaper.Status().Worked) })
	set.NewGauge("registry_gc_collected_blobs_total", func() float64 { return float64(reaper.Status().Total.Collected.Blobs) })
	set.NewGauge("registry_gc_collected_bytes_total", func() float64 { return float64(reaper.Status().Total.Collected.Bytes) })
	set.NewGauge("registry_gc_deleted_blobs_total", func() float64 { return float64(reaper.Status().Total.Keys) })
}

// seconds is a time as Prometheus has it, 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// freeBytes is 0 where it can't be found out.
func freeBytes(path string) float64 {
	free, err := filesystem.FreeBytes(path)
	if err != nil {
		return 0
	}
	return float64(free)
}
