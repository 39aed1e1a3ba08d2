package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// quotaTimeout is how long those who ask for metrics wait for what of quotas is used.
const quotaTimeout = 5 * time.Second

// countQuotas adds quotas, and what of them is used, to the metrics, if there are any.
func (s *stores) countQuotas(set *metrics.Set, log *slog.Logger) {
	if set == nil {
		return
	}
	set.RegisterMetricsWriter(func(w io.Writer) {
		ctx, cancel := context.WithTimeout(context.Background(), quotaTimeout)
		defer cancel()
		all, err := s.facts.Quotas(ctx, "")
		if err != nil {
			log.Warn("metrics lack quotas", "error", err)
			return
		}
		for _, q := range all {
			of := `{repositories="` + strings.Join(q.Repositories, " ") + `"}` // patterns have nothing to escape
			for name, value := range map[string]int64{"bytes": q.Bytes, "used_bytes": q.UsedBytes, "tags": q.Tags, "used_tags": q.UsedTags} {
				metrics.WriteGaugeUint64(w, "registry_quota_"+name+of, uint64(max(value, 0)))
			}
		}
	})
}
