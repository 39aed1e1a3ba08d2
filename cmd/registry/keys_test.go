package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/registry/backup"
)

func TestKeyFiles(t *testing.T) {
	directory, elsewhere := t.TempDir(), t.TempDir()
	write := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(directory, "tls")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(directory, tokenKeys), "token")
	write(filepath.Join(directory, "htpasswd"), "not Berth's")
	write(filepath.Join(elsewhere, "key.pem"), "key")
	write(filepath.Join(elsewhere, "acme", "acme_account+key"), "account")
	write(filepath.Join(elsewhere, ".new-1"), "half")
	if err := os.Symlink("key.pem", filepath.Join(elsewhere, "linked.pem")); err != nil {
		t.Fatal(err)
	}
	keys, err := keyFiles{directory, link}.read()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, k.Name+"="+string(k.Data))
	}
	if want := "token-keys.pem=token tls/acme/acme_account+key=account tls/key.pem=key tls/linked.pem=key"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s", got, want)
	}
	none := keyFiles{t.TempDir(), filepath.Join(t.TempDir(), "none")}
	if keys, err := none.read(); len(keys) > 0 || err != nil {
		t.Errorf("of no keys there are %v, %v", keys, err)
	}
	files, err := none.plan(keys, false)
	if err != nil || len(files) != len(keys) {
		t.Fatalf("%+v, %v", files, err)
	}
	if err := install(files); err != nil {
		t.Fatal(err)
	}
	if again, err := none.read(); err != nil || len(again) != len(keys) || string(again[1].Data) != "account" {
		t.Errorf("%+v, %v", again, err)
	}
	if files, err := none.plan(keys, false); err != nil || len(files) > 0 {
		t.Errorf("what is there already is written again: %+v, %v", files, err)
	}
	for _, name := range []string{"htpasswd", "metadata.sqlite", "tls/../x", "tls//x", "tls/", "", "/etc/passwd", "../x"} {
		if _, err := none.plan([]backup.Key{{Name: name}}, true); err == nil || !strings.Contains(err.Error(), "knows no place for") {
			t.Errorf("key %q: %v", name, err)
		}
	}
}
