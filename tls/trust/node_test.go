package trust

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// unavailable ends a test that can't run here: in CI as a failure, elsewhere as a skip.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s, and in CI every test has to run", why)
	}
	t.Skip(why)
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		unavailable(t, name+" is not installed")
	}
	return path
}

// eachShell runs a test under the shells of Debian and of Alpine.
func eachShell(t *testing.T, test func(t *testing.T, shell []string)) {
	t.Run("dash", func(t *testing.T) { test(t, []string{program(t, "dash")}) })
	t.Run("busybox", func(t *testing.T) { test(t, []string{program(t, "busybox"), "sh"}) })
}

// node is a machine in a folder.
type node struct {
	t     *testing.T
	shell []string
	root  string // its files, as DESTDIR
	ca    *authority
	file  string   // the CA's certificate
	env   []string // besides
	umask string

	temporary string // TMPDIR of a pasted line, or one of its own each
}

// newNode makes a machine with these files; those that end with a slash are directories.
func newNode(t *testing.T, shell []string, files ...string) *node {
	t.Helper()
	n := &node{t: t, shell: shell, root: t.TempDir(), ca: newAuthority(t), umask: "022"}
	n.file = filepath.Join(t.TempDir(), "ca.crt")
	n.check(os.WriteFile(n.file, n.ca.pem, 0o600))
	for _, f := range files {
		n.write(f, "#!/bin/sh\n")
	}
	return n
}

func (n *node) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// write puts a file on the machine, or makes a directory.
func (n *node) write(name, content string) {
	n.t.Helper()
	path := filepath.Join(n.root, name)
	if strings.HasSuffix(name, "/") {
		n.check(os.MkdirAll(path, 0o755))
		return
	}
	n.check(os.MkdirAll(filepath.Dir(path), 0o755))
	n.check(os.WriteFile(path, []byte(content), 0o755))
}

func (n *node) read(name string) string {
	n.t.Helper()
	content, err := os.ReadFile(filepath.Join(n.root, name))
	n.check(err)
	return string(content)
}

// run runs the script with these arguments.
func (n *node) run(args ...string) (stdout, stderr string, err error) {
	n.t.Helper()
	shell := slices.Concat(n.shell, []string{"-c", "umask " + n.umask + ` && exec "$@"`, "umask"}, n.shell)
	path, err := filepath.Abs("install.sh")
	n.check(err)
	argv := slices.Concat(shell, []string{path}, args)
	command := exec.CommandContext(n.t.Context(), argv[0], argv[1:]...)
	command.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH"), "HOME=/home/me", "DESTDIR=" + n.root}, n.env)
	command.Dir = n.t.TempDir()
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err = command.Run()
	return out.String(), errOut.String(), err
}

// install runs the script for an address with the CA's file, and expects it to succeed.
func (n *node) install(address string, args ...string) string {
	n.t.Helper()
	out, errOut, err := n.run(append([]string{address, Checksum(n.ca.pem), "--ca", n.file}, args...)...)
	if err != nil || errOut != "" {
		n.t.Fatalf("%v\n%s%s", err, out, errOut)
	}
	return out
}

func (n *node) uninstall(address string) string {
	n.t.Helper()
	out, errOut, err := n.run(address, Checksum(n.ca.pem), "--uninstall")
	if err != nil || errOut != "" {
		n.t.Fatalf("%v\n%s%s", err, out, errOut)
	}
	return out
}

// tree lists what is on the machine: modes and contents by path.
func (n *node) tree() map[string]string {
	n.t.Helper()
	tree := map[string]string{}
	n.check(filepath.WalkDir(n.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == n.root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(n.root, path)
		tree["/"+name] = info.Mode().String()
		if info.Mode().IsRegular() {
			tree["/"+name] += " " + n.read(name)
		}
		return nil
	}))
	return tree
}

// changed lists the files that differ between two trees, without directories.
func changed(before, after map[string]string) []string {
	var names []string
	for name, entry := range after {
		if before[name] != entry && entry[0] != 'd' {
			names = append(names, name)
		}
	}
	for name := range before {
		if after[name] == "" {
			names = append(names, "-"+name)
		}
	}
	slices.Sort(names)
	return names
}

// unmarked leaves out the marks of what the script installed.
func unmarked(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, ".by-berth") })
}

// owner returns the id of the user to whom a file belongs.
func (n *node) owner(name string) uint32 {
	n.t.Helper()
	info, err := os.Stat(filepath.Join(n.root, name))
	n.check(err)
	return info.Sys().(*syscall.Stat_t).Uid
}
