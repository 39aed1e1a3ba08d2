package metadata

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endWhenDeaf has the kernel end a TCP connection when what was sent is not confirmed within a time.
func endWhenDeaf(c syscall.RawConn, within time.Duration) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(within.Milliseconds())) // refused for a socket of another kind
	})
}
