package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"berth/conformance/server"
)

// idle is how long a registry is left alone before its memory is looked at.
const idle = 2 * time.Second

// addFootprint adds what the registries take: the most memory, and, once more started on all that was pushed, that of an idle process and
// how long the start takes. A start counts until the first answer over TLS.
func (c *comparison) addFootprint(ctx context.Context, table *table) error {
	err := table.addValues("peak memory", func(t *target) (float64, error) {
		if t.pid == 0 {
			return 0, nil
		}
		peak, err := server.PeakMemory(t.pid)
		return float64(peak), err
	}, mebibytes)
	if err != nil {
		return err
	}
	if err := table.addValues("start after kill -9", c.restart(ctx, (*server.Server).Kill), seconds); err != nil {
		return err
	}
	if err := table.addValues("start", c.restart(ctx, stop), seconds); err != nil {
		return err
	}
	time.Sleep(idle)
	if err := table.addValues("idle memory", func(t *target) (float64, error) {
		if t.pid == 0 {
			return 0, nil
		}
		now, err := server.Memory(t.pid)
		return float64(now), err
	}, mebibytes); err != nil {
		return err
	}
	return table.addValues("program", func(t *target) (float64, error) {
		if t.server == nil {
			return 0, nil
		}
		info, err := os.Stat(t.server.Program)
		if err != nil {
			return 0, err
		}
		return float64(info.Size()), nil
	}, megabytes)
}

// stop ends a registry in an orderly way, if it knows one.
func stop(s *server.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = s.Stop(ctx) // distribution ends with an error
	s.Kill()
}

// restart returns a function that ends a registry, starts it again, and returns how long that took in seconds.
func (c *comparison) restart(ctx context.Context, end func(*server.Server)) func(*target) (float64, error) {
	return func(t *target) (float64, error) {
		if t.server == nil {
			return 0, nil
		}
		end(t.server)
		begin := time.Now()
		again, err := server.Start(ctx, t.server.Config)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", t.name, err)
		}
		t.server, t.pid = again, again.PID()
		return time.Since(begin).Seconds(), nil
	}
}

func mebibytes(v float64) string { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }
func megabytes(v float64) string { return fmt.Sprintf("%.1f MB", v/1e6) }
func seconds(v float64) string   { return fmt.Sprintf("%.2f s", v) }
