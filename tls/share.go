package tls

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"berth/atomicfile"
)

// ShareAuthority makes the CA of ModeAuto the one that all servers of a registry have, before Open. Exchange is called with the
// certificate and key of this server's, as PEM, or with nothing while it has none, and returns those that all have, after keeping
// what it was given where there were none. It changes nothing when the configuration names a CA, and in other modes.
func ShareAuthority(c Config, log *slog.Logger, exchange func(mine []byte) (theirs []byte, err error)) error {
	if c.mode() != ModeAuto || c.AuthorityCertificate != "" {
		return nil
	}
	a := &auto{config: c, system: realSystem(), log: log}
	_, err := LoadAuthority(c)
	fresh := errors.Is(err, ErrNoAuthority)
	if fresh {
		theirs, err := exchange(nil)
		if err != nil {
			return fmt.Errorf("ask the other servers for the CA: %w", err)
		}
		if len(theirs) > 0 {
			return a.install(theirs)
		}
		a.hosts = a.system.hostNames(context.Background())
		if err := a.makeAuthority(); err != nil {
			return fmt.Errorf("make a CA in %s: %w", c.Directory, err)
		}
	} else if err != nil {
		return err
	}
	return a.offer(exchange, fresh)
}

// offer gives the others this server's CA. They may have one already: then a fresh one, which no client can know, gives way to it.
func (a *auto) offer(exchange func([]byte) ([]byte, error), fresh bool) error {
	certificate, err := os.ReadFile(a.config.path(authorityFile))
	if err != nil {
		return fmt.Errorf("read the CA: %w", err)
	}
	key, err := os.ReadFile(a.config.path(authorityKeyFile))
	if err != nil {
		return fmt.Errorf("read the CA: %w", err)
	}
	mine := bytes.Join([][]byte{certificate, key}, nil)
	theirs, err := exchange(mine)
	switch {
	case err != nil:
		return fmt.Errorf("share the CA with the other servers: %w", err)
	case !bytes.Equal(mine, theirs) && fresh:
		return a.install(theirs)
	case !bytes.Equal(mine, theirs):
		return fmt.Errorf("the CA %s is not the one that the other servers of this database have, which clients trust: remove %s, %s and %s "+
			"from %s, and this server takes theirs", a.config.path(authorityFile), authorityFile, authorityKeyFile, certificateFile, a.config.Directory)
	}
	return nil
}

// install keeps a CA that another server made.
func (a *auto) install(theirs []byte) error {
	var certificate, key []byte
	for block, rest := pem.Decode(theirs); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certificate = append(certificate, pem.EncodeToMemory(block)...)
		} else {
			key = append(key, pem.EncodeToMemory(block)...)
		}
	}
	if _, err := parseAuthority(certificate, key); err != nil {
		return fmt.Errorf("the CA that the other servers have can't be used: %w", err)
	}
	if err := os.MkdirAll(a.config.Directory, 0o700); err != nil {
		return fmt.Errorf("make the directory of the TLS certificate: %w", err)
	}
	err := atomicfile.WriteAll(atomicfile.File{Path: a.config.path(authorityKeyFile), Data: key, Mode: 0o600},
		atomicfile.File{Path: a.config.path(authorityFile), Data: certificate, Mode: 0o644})
	if err == nil {
		a.log.Info("CA taken from the other servers", "certificate", a.config.path(authorityFile))
	}
	return err
}
