//go:build !linux

package filesystem

const openFlags = 0

func freeBytes(string) (int64, error) { return unlimited, nil }

func startWriteBack(File, int64, int64) {}

func writesDirect(string) bool { return false }

func setDirect(File, bool) bool { return false }
