//go:build !linux

package metadata

import (
	"syscall"
	"time"
)

func endWhenDeaf(syscall.RawConn, time.Duration) error { return nil }
