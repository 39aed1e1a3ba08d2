package filesystem

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// openFlags keep an open from following a link out of the store and from waiting for a pipe's other end. On a regular
// file O_NONBLOCK does nothing, and Go then spares itself the calls that would set it.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK

// freeBytes returns how much a process without privileges may write below a directory.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	for {
		err := unix.Statfs(dir, &s)
		if err == unix.EINTR {
			continue
		}
		return int64(min(s.Bavail*uint64(s.Frsize), unlimited)), err
	}
}

// startWriteBack asks the kernel to write a part of a file and does not wait. It is a hint: Sync reports what fails.
func startWriteBack(f File, offset, n int64) {
	file, ok := f.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE)
		})
	}
}
