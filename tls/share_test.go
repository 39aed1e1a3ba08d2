package tls

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
)

// board is where servers leave what all of them have.
type board struct {
	mu   sync.Mutex
	kept []byte
}

func (b *board) exchange(mine []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) == 0 {
		b.kept = mine
	}
	return b.kept, nil
}

// TestShareAuthority has servers that start one after the other sign with the same CA.
func TestShareAuthority(t *testing.T) {
	var all board
	var first []byte
	for range 3 {
		c := Config{Mode: ModeAuto, Directory: t.TempDir()}
		for range 2 { // also when it starts again
			if err := ShareAuthority(c, slog.New(slog.DiscardHandler), all.exchange); err != nil {
				t.Fatal(err)
			}
			s, err := Open(c, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = s.CA()
			}
			if !bytes.Equal(s.CA(), first) {
				t.Error("this server has another CA")
			}
		}
		if info, err := os.Stat(c.path(authorityKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the key: %v, %v", info.Mode(), err)
		}
	}
}

// TestShareAuthorityAtOnce has servers start at the same time where there is no CA yet.
func TestShareAuthorityAtOnce(t *testing.T) {
	var all board
	var asked, servers sync.WaitGroup
	found := make([][]byte, 4)
	asked.Add(len(found))
	for i := range found {
		c := Config{Mode: ModeAuto, Directory: t.TempDir()}
		servers.Go(func() {
			err := ShareAuthority(c, slog.New(slog.DiscardHandler), func(mine []byte) ([]byte, error) {
				if mine == nil { // each finds nothing, and makes one
					asked.Done()
					asked.Wait()
					return nil, nil
				}
				return all.exchange(mine)
			})
			if err != nil {
				t.Error(err)
				return
			}
			a, err := LoadAuthority(c)
			if err != nil {
				t.Error(err)
				return
			}
			found[i] = a.PEM()
		})
	}
	servers.Wait()
	for i := range found {
		if !bytes.Equal(found[i], found[0]) {
			t.Error("they have different CAs")
		}
	}
}

// TestShareAuthorityRefuses keeps a CA that clients may trust, and one that is damaged.
func TestShareAuthorityRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c := Config{Mode: ModeAuto, Directory: t.TempDir()}
	if _, err := Open(c, log); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(c.path(authorityFile))
	if err != nil {
		t.Fatal(err)
	}
	var others board
	if err := ShareAuthority(Config{Mode: ModeAuto, Directory: t.TempDir()}, log, others.exchange); err != nil {
		t.Fatal(err)
	}
	if err := ShareAuthority(c, log, others.exchange); err == nil || !strings.Contains(err.Error(), "takes theirs") {
		t.Errorf("beside another CA: %v", err)
	}
	if after, err := os.ReadFile(c.path(authorityFile)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("its own CA is gone: %v", err)
	}
	fresh := Config{Mode: ModeAuto, Directory: t.TempDir()}
	if err := ShareAuthority(fresh, log, (&board{kept: before}).exchange); err == nil {
		t.Error("a CA without a key is taken")
	}
	for _, c := range []Config{{Mode: ModeOff}, {Mode: ModeAuto, AuthorityCertificate: "given", AuthorityKey: "given"}} {
		if err := ShareAuthority(c, log, nil); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
