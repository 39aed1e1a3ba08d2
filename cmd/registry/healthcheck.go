package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout is how long the server has to answer.
const healthTimeout = 5 * time.Second

func healthcheckCommand(s streams) *cobra.Command {
	var ready bool
	command := &cobra.Command{
		Use:   "healthcheck [CONFIG]",
		Short: "Ask the running registry whether it works",
		Long: `Ask the registry that runs on the same data directory whether it can answer. The exit code is 0 when it can and 1
when not: for the health check of a container, whose image has no shell. In a container that was started with a
configuration file, that is the default for CONFIG.

While a start migrates the database or takes over the data of registry:2, which may take long, the exit code is 0 too, and what
is done is printed: to be killed and to begin again would not help. The port is closed until the registry serves; --ready
fails until then.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = firstProcessConfig("/proc/1")
			}
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			directory, err := dataDirectory(c, s.environ)
			if err != nil {
				return err
			}
			return s.healthcheck(command.Context(), adminSocket(c, directory), ready)
		},
	}
	command.Flags().BoolVar(&ready, "ready", false, "fail until the registry serves: for scripts that wait for it")
	return command
}

func (s streams) healthcheck(ctx context.Context, socket string, ready bool) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	response, err := adminRequest(ctx, socket, http.MethodGet, "/health", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // the status says enough
	said := strings.TrimSpace(string(answer))
	switch code := response.StatusCode; {
	case code == http.StatusAccepted && ready:
		return fmt.Errorf("the registry is not ready: %s", said)
	case code == http.StatusOK, code == http.StatusAccepted:
		_, err = fmt.Fprintln(s.out, cmp.Or(said, "ok"))
		return err
	}
	return fmt.Errorf("the registry is not healthy: %s", said)
}

// firstProcessConfig returns the configuration file that this program was called with as the first process of a container,
// as arguments: none when the first process, whose directory in /proc is given, is another program or has none.
func firstProcessConfig(process string) []string {
	first, err := os.Stat(filepath.Join(process, "exe"))
	if err != nil {
		return nil
	}
	if self, err := os.Stat("/proc/self/exe"); err != nil || !os.SameFile(first, self) {
		return nil
	}
	line, err := os.ReadFile(filepath.Join(process, "cmdline"))
	if err != nil {
		return nil
	}
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	if args = withServe(args[1:]); len(args) != 2 || args[0] != "serve" {
		return nil
	}
	return args[1:]
}
