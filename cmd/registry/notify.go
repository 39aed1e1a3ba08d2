package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// The states that a service manager is told of.
const (
	stateReady    = "READY=1"
	stateStopping = "STOPPING=1"
)

// manager is the service manager that started the program, if it wants to be told how the program is: the protocol of
// systemd's sd_notify, a datagram with lines of KEY=VALUE.
type manager struct {
	socket string        // empty when nobody wants to know
	extend time.Duration // how often it is asked to wait while a start goes on
	log    *slog.Logger
}

func newManager(environ []string, log *slog.Logger) manager {
	return manager{variable(environ, "NOTIFY_SOCKET"), extendEvery, log}
}

// tell sends a state. A manager that can't be told is no reason not to serve.
func (m manager) tell(state string) {
	if m.socket == "" {
		return
	}
	if err := m.send(state); err != nil {
		m.log.Warn("the service manager was not told", "state", state, "error", err)
	}
}

func (m manager) send(state string) error {
	conn, err := net.DialTimeout("unixgram", m.socket, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// extendStart asks for more time now and then, until ctx ends: a start may take longer than the manager allows by itself.
func (m manager) extendStart(ctx context.Context) {
	if m.socket == "" {
		return
	}
	for tick := time.NewTicker(m.extend); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			m.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendBy.Microseconds()))
		}
	}
}

// stopping waits for the end of ctx and tells of it.
func (m manager) stopping(ctx context.Context) {
	<-ctx.Done()
	m.tell(stateStopping)
}

// reloading tells that the program reloads its configuration. READY=1 ends that.
func (m manager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.Warn("the service manager was not told", "state", "RELOADING=1", "error", err)
		return
	}
	m.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", time.Duration(now.Nano()).Microseconds()))
}
