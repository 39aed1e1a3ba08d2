package server

import (
	"os"
	"testing"
	"time"
)

func TestParseCPU(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20"
	for _, tt := range []struct {
		stat string
		want time.Duration
		ok   bool
	}{
		{"17 (registry)" + rest, 1500 * time.Millisecond, true},
		{"17 (a) b (c))" + rest, 1500 * time.Millisecond, true},
		{"17 (registry) S 1 2", 0, false},
		{"17 (registry) S 1 2 3 4 5 6 7 8 9 10 x 30 0", 0, false},
		{"", 0, false},
	} {
		got, err := parseCPU([]byte(tt.stat))
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("parseCPU(%q) = %v, %v; want %v, ok %v", tt.stat, got, err, tt.want, tt.ok)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	peak, err := PeakMemory(os.Getpid())
	if err != nil || peak < 1<<20 {
		t.Errorf("PeakMemory = %d, %v; want at least a MiB", peak, err)
	}
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if now, err := CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		} else if now > before {
			return
		}
	}
	t.Error("ten seconds of work used no processor time")
}
