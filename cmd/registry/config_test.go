package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestStandIn(t *testing.T) {
	dir := t.TempDir()
	two, three, mine := filepath.Join(dir, "2.yml"), filepath.Join(dir, "3.yml"), filepath.Join(dir, "mine.yml")
	usual := []string{two, three}
	expect := func(path, want string) {
		t.Helper()
		if got := standIn(path, usual); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	expect(two, two) // and the error names what was asked for
	if err := os.WriteFile(three, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(two, three)
	expect(three, three)
	expect(mine, mine)
	if err := os.WriteFile(two, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(two, two)
	expect(three, three)
}
