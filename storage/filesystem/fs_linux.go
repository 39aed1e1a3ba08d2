package filesystem

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// openFlags keep an open from following a link out of the store and from waiting for a pipe's other end. On a regular
// file O_NONBLOCK does nothing, and Go then spares itself the calls that would set it.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK

// FreeBytes returns how much a process without privileges may write below a directory, or beside a file.
func FreeBytes(dir string) (int64, error) {
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

// writesDirect reports whether the file system of a directory is one on which writes past the page cache are known to pay. Over a network,
// each would wait for its answer.
func writesDirect(dir string) bool {
	var s unix.Statfs_t
	err := unix.Statfs(dir, &s)
	return err == nil && (s.Type == unix.EXT4_SUPER_MAGIC || s.Type == unix.XFS_SUPER_MAGIC)
}

// setDirect says whether writes to a file go past the page cache, and reports whether that could be said.
func setDirect(f File, on bool) bool {
	file, ok := f.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	done := false
	err = raw.Control(func(fd uintptr) {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			return
		}
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
		done = err == nil
	})
	return err == nil && done
}
