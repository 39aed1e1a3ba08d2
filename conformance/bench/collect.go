package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
)

// collectRepo has what nobody needs.
const collectRepo = "bench/garbage"

// collecting is added to the configuration: what is pushed is garbage a second later. The collector works as fast as it does by default.
const collecting = `auth: none
gc:
  interval: 100ms
  lease: 1s
  grace: 1s
`

// measureCollect compares how long pulls take of a Berth that collects garbage with how long they take while that is paused.
func measureCollect(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config, err := configure(dir, fmt.Sprintf(filesystem, filepath.Join(dir, "data")))
	if err != nil {
		return err
	}
	if config.Program, err = filepath.Abs(s.collect); err != nil {
		return err
	}
	if err := appendTo(config.Args[1], collecting); err != nil {
		return err
	}
	running, err := server.Start(ctx, config)
	if err != nil {
		return err
	}
	defer running.Kill()
	c := &collection{target: &target{name: "berth", url: config.URL, ca: config.CA, pid: running.PID()}, config: config, settings: s}
	if err := c.fill(ctx, stderr); err != nil {
		return err
	}
	return c.compare(ctx, stdout, stderr)
}

// collection is a registry with garbage.
type collection struct {
	target   *target
	config   server.Config
	settings settings
}

// gc runs a command of the program about its collector.
func (c *collection) gc(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, c.config.Program, append(append([]string{"gc"}, args...), c.config.Args[1])...).Output()
	if err != nil {
		return nil, fmt.Errorf("gc %v: %w", args, err)
	}
	return out, nil
}

// fill pushes what is to be pulled and, while the collector is paused, the garbage.
func (c *collection) fill(ctx context.Context, stderr io.Writer) error {
	if _, err := c.gc(ctx, "pause"); err != nil {
		return err
	}
	if err := prepare(ctx, c.target, c.settings); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "pushing %d blobs\n", c.settings.blobs)
	err := each(ctx, c.target, c.settings.blobs, func(one *client.Client, i int) error {
		blob := client.Content{Seed: uint64(i), Size: 200}
		return one.PushBlob(ctx, collectRepo, blob.Digest(), blob.Reader(0), blob.Size)
	})
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // until the leases are over
	return nil
}

// compare takes turns.
func (c *collection) compare(ctx context.Context, stdout, stderr io.Writer) error {
	pulls := []row{{name: byTag, do: getManifest},
		{name: "blob GET 4 KiB", do: getBlob(client.Content{Seed: pulledSeed, Size: small}.Digest)}}
	paused, working := make([][]float64, len(pulls)), make([][]float64, len(pulls))
	for round := range c.settings.rounds {
		for i, pull := range pulls {
			fmt.Fprintf(stderr, "round %d: %s\n", round+1, pull.name)
			for _, state := range []struct {
				command string
				into    *[]float64
			}{{"pause", &paused[i]}, {"resume", &working[i]}} {
				if _, err := c.gc(ctx, state.command); err != nil {
					return err
				}
				r, err := measure(ctx, c.target, pull, c.settings)
				if err != nil {
					return err
				}
				*state.into = append(*state.into, r.percentile(99).Seconds()*1000)
			}
		}
	}
	out, err := c.gc(ctx, "status", "--json")
	if err != nil {
		return err
	}
	var status struct{ Due int }
	if err := json.Unmarshal(out, &status); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "| pull | p99, collecting is paused | p99, while it collects | ratio within a round |\n|---|---:|---:|---:|\n")
	for i, pull := range pulls {
		fmt.Fprintf(stdout, "| %s | %.2f ms | %.2f ms | %.2f× |\n", pull.name, median(paused[i]), median(working[i]), median(quotients(working[i], paused[i])))
	}
	fmt.Fprintf(stdout, "\n%d blobs were collected meanwhile, %d are left.\n", c.settings.blobs-status.Due, status.Due)
	if status.Due == 0 {
		return fmt.Errorf("there was no garbage left in the end: more than %d blobs are needed for so many rounds", c.settings.blobs)
	}
	return nil
}

func quotients(a, b []float64) []float64 {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	return q
}
