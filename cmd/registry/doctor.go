package main

import (
	"fmt"
	"os"
	"os/user"
	"strings"

	"berth/doctor"

	"github.com/spf13/cobra"
)

func doctorCommand(s streams) *cobra.Command {
	var caFile string
	var asJSON bool
	command := &cobra.Command{
		Use:   "doctor https://HOST:PORT",
		Short: "Find out why this machine can't use a registry",
		Long: `Examine a registry from this machine: name, network, certificate, the CAs that Docker, containerd, Podman and the system
trust, their configuration, the clock, and the registry's answer. Each finding is one line with its remedy. Nothing is
changed on this machine, and no credentials are sent. A Berth registry may learn the name by which it is asked, as it does
from any client nearby, and add it to its certificate (http.tls.learn).

https:// may be left out.

The exit code is 1 when something has to be mended.`,
		Example: "  registry doctor https://registry.lan:5000",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			c := doctor.Config{CAFile: caFile, Root: variable(s.environ, "DESTDIR"), Home: s.userHome()}
			if caFile != "" {
				ca, err := os.ReadFile(caFile)
				if err != nil {
					return fmt.Errorf("--ca: %w", err)
				}
				c.CA = ca
			}
			return s.printDiagnosis(args[0], doctor.Run(command.Context(), args[0], c), asJSON)
		},
	}
	command.Flags().StringVar(&caFile, "ca", "", "file with the CA that the registry's certificate has to come from, as PEM")
	command.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return command
}

// userHome is the home of the person who runs the command, also with sudo.
func (s streams) userHome() string {
	if name := variable(s.environ, "SUDO_USER"); name != "" {
		if u, err := user.Lookup(name); err == nil {
			return u.HomeDir
		}
	}
	return variable(s.environ, "HOME")
}

// diagnosis is what doctor prints as JSON.
type diagnosis struct {
	Address  string           `json:"address"`
	OK       bool             `json:"ok"`
	Findings []doctor.Finding `json:"findings"`
}

func (s streams) printDiagnosis(address string, findings []doctor.Finding, asJSON bool) error {
	failed := doctor.Failed(findings)
	if asJSON {
		if err := s.printJSON(diagnosis{address, !failed, findings}); err != nil {
			return err
		}
	} else {
		s.printDoctorLines(findings)
	}
	if failed {
		return errReported
	}
	return nil
}

func (s streams) printDoctorLines(findings []doctor.Finding) {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	for _, f := range findings {
		status := string(f.Status)
		if f.Status == doctor.Fail {
			status = strings.ToUpper(status)
		}
		line := f.Detail
		if f.Remedy != "" {
			line += ". " + f.Remedy + "."
		}
		fmt.Fprintf(s.out, "%-4s  %-*s  %s\n", status, width, f.Check, line)
	}
}
