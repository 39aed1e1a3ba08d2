package server

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// PeakMemory returns the most physical memory that a running process ever held, in bytes (VmHWM). It needs Linux.
func PeakMemory(pid int) (int64, error) { return memory(pid, "VmHWM:") }

// Memory returns the physical memory that a running process holds now, in bytes (VmRSS). It needs Linux.
func Memory(pid int) (int64, error) { return memory(pid, "VmRSS:") }

// memory returns what a line of the process's status says.
func memory(pid int, name string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read memory: process %d has no %s", pid, name)
}

// tick is the unit of processor time in /proc, which is the same on every architecture that Linux runs Go on.
const tick = 10 * time.Millisecond

// CPU returns the processor time that a running process has used so far, in steps of 10 ms. It needs Linux.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return parseCPU(stat)
}

// parseCPU reads fields 14 and 15 (utime and stime). The second field, the name of the program, may hold spaces and
// parentheses.
func parseCPU(stat []byte) (time.Duration, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read processor time: %d fields", len(fields))
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	system, err := strconv.ParseInt(string(fields[12]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}
