package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestStrangersCannotFillTheDisk has them fail as often as they like, from one network and from many.
func TestStrangersCannotFillTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		seen := 0
		l := newStrangerLimit(slog.NewTextHandler(&out, nil))
		audit := slog.New(l)
		counted := func(what string, want int) {
			t.Helper()
			if got := strings.Count(out.String()[seen:], what); got != want {
				t.Errorf("%d records of %s, want %d", got, what, want)
			}
			seen = len(out.String())
		}
		for i := range 500 {
			audit.Info("login failed", "user", fmt.Sprint(i), "remote", fmt.Sprintf("2001:db8::%x", i))
			audit.Info("denied", "user", "", "remote", "2001:db8::1")
			audit.Info("denied", "user", "ann", "remote", "2001:db8::1")
		}
		audit.Info("login failed", "user", "ann", "remote", "192.0.2.1")
		if got := strings.Count(out.String(), "remote=192.0.2.1"); got != 1 {
			t.Errorf("%d records of another network", got)
		}
		counted("user=ann", 501)
		time.Sleep(omissionDelay)
		synctest.Wait()
		counted(`"records left out" count=940`, 1)
		audit.Info("login failed", "user", "ann", "remote", "2001:db8::1")
		audit.With("by", "x").Info("push", "user", "", "remote", "2001:db8::1")
		counted("remote", 2)

		time.Sleep(time.Hour)
		synctest.Wait()
		counted("records left out", 0)
		for i := range 3 * maxStrangers {
			audit.With("more", "x").Info("login failed", "remote", fmt.Sprintf("2001:db8:1:%x::1", i))
		}
		counted("login failed", strangersBurst)
		if len(l.budget.networks) > maxStrangers {
			t.Errorf("%d networks are counted", len(l.budget.networks))
		}
		l.budget.settle()
		counted("count=29000", 1)
		l.budget.settle()
		counted("records left out", 0)
	})
}

// TestFloodOfFailures shows a registry wrong tokens, of which the end of its audit log tells.
func TestFloodOfFailures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	r := serve(t, t.TempDir(), "REGISTRY_HTTP_TLS_MODE=off", "REGISTRY_AUDIT_OUTPUT="+path)
	v := visitor{t: t, url: r.url(), authorization: "Bearer none"}
	for range strangerBurst + 20 {
		if status, body, _ := v.do(http.MethodGet, "/v2/", "", ""); status != http.StatusUnauthorized {
			t.Fatalf("got %d %s", status, body)
		}
	}
	r.end(t)
	records, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// One more is due in ten seconds, however long this took.
	if n := bytes.Count(records, []byte(`"event":"login failed"`)); n < strangerBurst || n > strangerBurst+5 {
		t.Errorf("%d are recorded", n)
	}
	if !bytes.Contains(records, []byte(`"event":"records left out","count":`)) {
		t.Errorf("that some are left out is not recorded:\n%s", records)
	}
}
