// Command registry is Berth: a private OCI registry.
//
// This file is the start; every command has a file of its own. Everything that the packages need of each other is wired
// together here.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build: -ldflags "-X main.version=…".
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(os.Stderr, "registry:", err)
		}
		os.Exit(1)
	}
}

// errReported ends a command with exit code 1 when it has said why already.
var errReported = errors.New("reported")

// streams are what a command reads its environment from and writes to.
type streams struct {
	environ     []string
	in          io.Reader
	out, errOut io.Writer
}

func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := rootCommand(streams{environ: environ, in: stdin, out: stdout, errOut: stderr})
	root.SetArgs(withServe(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// withServe lets `registry CONFIG.yml` mean serve: that is how the image of registry:2 is called. That image is also called
// with the program's own name in front.
func withServe(args []string) []string {
	if len(args) > 1 && args[0] == "registry" {
		args = args[1:]
	}
	if len(args) == 1 && (strings.HasSuffix(args[0], ".yml") || strings.HasSuffix(args[0], ".yaml")) {
		return append([]string{"serve"}, args...)
	}
	return args
}

func rootCommand(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "registry",
		Short: "Berth, a private OCI registry",
		Long: `Berth is a private registry for container images and other OCI artifacts.

  registry serve                  start with defaults: HTTPS on port 5000
  registry serve CONFIG.yml       start with the configuration file of distribution's registry
  registry CONFIG.yml             the same

Every key of the file can be overridden by an environment variable: REGISTRY_HTTP_ADDR is http.addr. Secrets also by the
name of a file that holds them: REGISTRY_AUTH_INITIALPASSWORD_FILE.`,
		Version:           versionString(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(serveCommand(s), configCommand(s), inspectCommand(s), indexCommand(s), tagCommand(s), deleteCommand(s), importCommand(s), exportCommand(s), userCommand(s), tokenCommand(s), accessCommand(s),
		certCommand(s), doctorCommand(s), fsckCommand(s), garbageCollectCommand(s), gcCommand(s), retentionCommand(s), usageCommand(s), backupCommand(s), restoreCommand(s), metadataCommand(s),
		healthcheckCommand(s), versionCommand(s))
	return root
}

func versionCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.out, "berth", versionString())
			return err
		},
	}
}

// versionString is the version of the build, else that of the module, else the commit.
func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return "commit " + setting.Value
		}
	}
	return info.Main.Version
}
