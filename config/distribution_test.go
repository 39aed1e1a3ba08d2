package config

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// distributionKeys calls check with every key of distribution and a value of it.
func distributionKeys(t *testing.T, check func(key, value string)) {
	t.Helper()
	list, err := os.ReadFile("testdata/distribution.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key != "#" {
			check(key, value)
		}
	}
}

// nested writes a dotted key as YAML.
func nested(key, value string) string {
	names := strings.Split(key, ".")
	for i := len(names) - 1; i >= 0; i-- {
		if _, err := strconv.Atoi(names[i]); err == nil {
			value = "[" + value + "]"
		} else {
			value = "{" + names[i] + ": " + value + "}"
		}
	}
	return value
}

// TestDistributionKeys sees that no key of distribution is taken for a mistyped one, in a file or a variable: it counts, or a warning names
// it, or it is refused with what to do instead.
func TestDistributionKeys(t *testing.T) {
	distributionKeys(t, func(key, value string) {
		file := nested(key, value)
		if key != "version" {
			file = strings.Replace(file, "{", "{version: 0.1, ", 1)
		}
		_, _, err := parse(t, file)
		checkKnown(t, key, err)
		if key == "version" || strings.Contains(key, "_") { // which no variable can name, here or there
			return
		}
		name := prefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		_, warnings, err := Parse("", nil, []string{name + "=" + value})
		checkKnown(t, key, err)
		if text := strings.Join(warnings, "\n"); strings.Contains(text, "set nothing here") {
			t.Errorf("%s: %s", name, text)
		}
	})
}

// checkKnown looks for a problem that speaks of the key as unknown or of another type.
func checkKnown(t *testing.T, key string, err error) {
	t.Helper()
	var problems *Error
	if err != nil && !errors.As(err, &problems) {
		t.Fatalf("%s: %v", key, err)
	}
	if problems == nil {
		return
	}
	for _, p := range problems.Problems {
		if strings.HasPrefix(p.Message, "unknown") || p.Key == key && strings.HasPrefix(p.Message, "must") {
			t.Errorf("%s: %v", key, p)
		}
	}
}
