package main

import (
	"io"
	"os"

	"berth/registry"
)

// isTerminal reports whether a person reads w as it is written.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// bytesString returns n bytes for people: "3.2 GiB".
func bytesString(n int64) string { return registry.BytesText(n) }
