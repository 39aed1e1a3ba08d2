package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout is how long the server has to answer.
const healthTimeout = 5 * time.Second

func healthcheckCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck [CONFIG]",
		Short: "Ask the running registry whether it works",
		Long: `Ask the registry that runs on the same data directory whether it can answer. The exit code is 0 when it can and 1
when not: for the health check of a container, whose image has no shell.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c, _, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			directory, err := dataDirectory(c, s.environ)
			if err != nil {
				return err
			}
			return s.healthcheck(command.Context(), directory)
		},
	}
}

func (s streams) healthcheck(ctx context.Context, directory string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	response, err := adminRequest(ctx, directory, http.MethodGet, "/health", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return fmt.Errorf("the registry is not healthy: %s", strings.TrimSpace(string(why)))
	}
	_, err = fmt.Fprintln(s.out, "ok")
	return err
}
