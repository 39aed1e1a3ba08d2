// Package berth_test checks what no single package can: which package may import which, and on what the module depends.
package berth_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "berth"

// rules says which packages of this module each package may import. Commands may import everything. Imports run one way,
// and siblings don't know each other; ARCHITECTURE.md says why.
func rules() map[string][]string {
	return map[string][]string{
		"registry":                          {"registry/manifest", "storage", "storage/metadata"},
		"registry/manifest":                 {},
		"registry/api":                      {"registry", "registry/manifest"},
		"registry/gc":                       {"storage", "storage/metadata"},
		"registry/adopt":                    {"registry", "registry/manifest", "storage", "storage/metadata"},
		"registry/fsck":                     {"registry/manifest", "storage", "storage/metadata"},
		"registry/backup":                   {"storage", "storage/metadata"},
		"storage":                           {},
		"storage/filesystem":                {"storage"},
		"storage/filesystem/filesystemtest": {"storage", "storage/filesystem"},
		"storage/s3":                        {"storage"},
		"storage/diskcache":                 {"filelock", "storage"},
		"storage/s3/s3test":                 {},
		"storage/journal":                   {},
		"storage/small":                     {"storage"},
		"storage/storagetest":               {"storage"},
		"storage/metadata":                  {"filelock"},
		"storage/metadata/postgrestest":     {},
		"storage/metadata/metatest":         {"storage", "storage/metadata", "storage/storagetest"},
		"filelock":                          {},
		"atomicfile":                        {},
		"filewatch":                         {},
		"auth":                              {"auth/access", "auth/token", "atomicfile", "filewatch", "glob"},
		"auth/access":                       {"glob"},
		"glob":                              {},
		"auth/token":                        {},
		"config":                            {},
		"tls":                               {"atomicfile"},
		"tls/trust":                         {},
		"doctor":                            {},
		"client":                            {"registry/manifest"},
		"transfer":                          {"registry/manifest"},
		"transfer/layout":                   {"atomicfile", "registry/manifest"},
		"conformance":                       {"conformance/client", "conformance/server", "storage/metadata/postgrestest", "storage/s3/s3test"},
		"conformance/client":                {},
		"conformance/server":                {},
		"conformance/clients":               {"conformance/server", "storage/metadata/postgrestest"},
		"conformance/bench":                 {"conformance/client", "conformance/server", "storage/s3/s3test", "storage/metadata/postgrestest"},
	}
}

// dependencies are the modules that the code of this one imports. Each has a line in ARCHITECTURE.md that says what for.
func dependencies() []string {
	return []string{
		"github.com/VictoriaMetrics/metrics",
		"github.com/aws/aws-sdk-go-v2",
		"github.com/aws/aws-sdk-go-v2/config",
		"github.com/aws/aws-sdk-go-v2/credentials",
		"github.com/aws/aws-sdk-go-v2/service/s3",
		"github.com/aws/smithy-go",
		"github.com/go-jose/go-jose/v4",
		"github.com/jackc/pgx/v5",
		"github.com/maypok86/otter/v2",
		"github.com/opencontainers/go-digest",
		"github.com/opencontainers/image-spec",
		"github.com/pires/go-proxyproto",
		"github.com/pressly/goose/v3",
		"github.com/spf13/cobra",
		"go.yaml.in/yaml/v3",
		"golang.org/x/crypto",
		"golang.org/x/sync",
		"golang.org/x/sys",
		"golang.org/x/term",
		"golang.org/x/time",
		"modernc.org/sqlite",
		"oras.land/oras-go/v2",
	}
}

// violation says what is wrong with an import of one package by another, both relative to the module, or nothing.
func violation(from, to string) string {
	if from == "cmd" || strings.HasPrefix(from, "cmd/") {
		return ""
	}
	allowed, ok := rules()[from]
	if !ok {
		return fmt.Sprintf("package %s is not in the rules: say what it may import", from)
	}
	if !slices.Contains(allowed, to) {
		return fmt.Sprintf("package %s imports %s, but may import only %v", from, to, allowed)
	}
	return ""
}

func TestImportsFollowTheRules(t *testing.T) {
	packages := projectImports(t)
	for from, imported := range packages {
		for to := range imported {
			if why := violation(from, to); why != "" {
				t.Error(why)
			}
		}
		if why := violation(from, from); strings.Contains(why, "not in the rules") {
			t.Error(why)
		}
	}
	for room := range rules() {
		if packages[room] == nil {
			t.Errorf("there are rules for %s, but no such package", room)
		}
	}
}

func TestViolation(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     string // a part of what is said, or nothing
	}{
		{"registry/api", "registry", ""},
		{"registry", "storage", ""},
		{"storage/filesystem", "storage", ""},
		{"cmd/registry", "registry/api", ""},
		{"cmd/registry", "tls", ""},
		{"registry", "registry/api", "may import only"},
		{"registry/api", "storage/metadata", "may import only"},
		{"registry/api", "registry/gc", "may import only"},
		{"registry/api", "auth", "may import only"},
		{"storage", "storage/filesystem", "may import only"},
		{"storage/filesystem", "storage/metadata", "may import only"},
		{"storage/metadata", "registry", "may import only"},
		{"auth", "config", "may import only"},
		{"tls", "config", "may import only"},
		{"client", "registry", "may import only"},
		{"config", "cmd/registry", "may import only"},
		{"conformance", "registry", "may import only"},
		{"conformance/bench", "storage/filesystem", "may import only"},
		{"util", "storage", "not in the rules"},
		{"registry/util", "registry", "not in the rules"},
	} {
		got := violation(tt.from, tt.to)
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("violation(%s, %s) = %q, want %q", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestRulesHaveNoCycle(t *testing.T) {
	var visit func(trail []string)
	visit = func(trail []string) {
		for _, next := range rules()[trail[len(trail)-1]] {
			if slices.Contains(trail, next) {
				t.Fatalf("the rules allow a cycle: %v", append(trail, next))
			}
			visit(append(slices.Clone(trail), next))
		}
	}
	for room := range rules() {
		visit([]string{room})
	}
}

func TestDirectDependencies(t *testing.T) {
	if got, want := requirements(t), dependencies(); !slices.Equal(got, want) {
		t.Errorf("go.mod requires directly\n%s\nand this test knows\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dependency := range dependencies() {
		if !bytes.Contains(page, []byte(dependency)) {
			t.Errorf("ARCHITECTURE.md does not say what %s is for", dependency)
		}
	}
}

// requirements returns the modules that go.mod requires and does not mark as indirect, sorted.
func requirements(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &file); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range file.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	slices.Sort(direct)
	return direct
}

// projectImports returns, for each package of the module, those of the module that it imports, for all platforms. Tests may
// import what they like, except in conformance, which looks at the registry from outside.
func projectImports(t *testing.T) map[string]map[string]bool {
	t.Helper()
	packages := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return skipFolder(file, err)
		}
		from := path.Dir(filepath.ToSlash(file))
		isTest := strings.HasSuffix(file, "_test.go")
		if !strings.HasSuffix(file, ".go") || isTest && from != "conformance" && from != "conformance/clients" {
			return nil
		}
		if packages[from] == nil {
			packages[from] = map[string]bool{}
		}
		return addImports(packages[from], file)
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// skipFolder leaves out what does not belong to the module: other modules, test data, and what begins with a dot.
func skipFolder(folder string, err error) error {
	if err != nil || folder == "." {
		return err
	}
	_, statErr := os.Stat(filepath.Join(folder, "go.mod"))
	if name := filepath.Base(folder); statErr == nil || name == "testdata" || name[0] == '.' || name[0] == '_' {
		return filepath.SkipDir
	}
	return nil
}

func addImports(imported map[string]bool, file string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if relative, ok := strings.CutPrefix(name, module+"/"); ok {
			imported[relative] = true
		}
	}
	return nil
}
