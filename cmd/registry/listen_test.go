package main

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// TestGiveUpUnread has a client that reads nothing, and one that is slow but does.
func TestGiveUpUnread(t *testing.T) {
	const after = time.Second
	listener, err := (&net.ListenConfig{Control: giveUpUnread(after)}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, read := range map[string]bool{"reads nothing": false, "slow": true} {
		t.Run(name, func(t *testing.T) {
			client, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if read {
				go func() {
					for range 20 {
						time.Sleep(after / 5)
						_, _ = io.CopyN(io.Discard, client, 1<<20)
					}
					_, _ = io.Copy(io.Discard, client)
				}()
			}
			_ = conn.SetWriteDeadline(time.Now().Add(30 * after)) // for a system that gives nothing up
			_, err = conn.Write(make([]byte, 32<<20))
			switch {
			case read && err != nil:
				t.Error(err)
			case !read && !errors.Is(err, syscall.ETIMEDOUT):
				t.Errorf("the end is %v", err)
			}
		})
	}
}
