package gc

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	const day = 24 * time.Hour
	type look struct {
		wall, real time.Duration // since the beginning
		trusted    bool
	}
	for _, test := range []struct {
		name   string
		latest time.Duration // the latest time that was seen before
		looks  []look
	}{
		{"runs evenly", -time.Hour, []look{{0, 0, true}, {time.Minute, time.Minute, true}, {5 * day, 5 * day, true}}},
		{"is corrected a little", -time.Hour, []look{{0, 0, true}, {-time.Second, time.Minute, true}, {time.Hour, 2 * time.Minute, true}}},
		{"begins in the past", 365 * day, []look{{0, 0, false}, {time.Minute, time.Minute, false}}},
		{"begins in the past and is set", 365 * day, []look{
			{0, 0, false}, {365*day + time.Minute, time.Minute, false}, {365*day + 2*time.Minute, 2 * time.Minute, false},
			{365*day + 2*time.Hour, 2 * time.Hour, true},
		}},
		{"was wrong once and is right now", 365 * day, []look{{0, 0, false}, {time.Hour, time.Hour, false}, {day + time.Hour, day + time.Hour, true}}},
		{"jumps ahead", -time.Hour, []look{{0, 0, true}, {2 * day, time.Minute, false}, {2*day + time.Minute, 2 * time.Minute, false}, {2*day + 2*time.Hour, 2 * time.Hour, true}}},
		{"jumps back", -10 * day, []look{{0, 0, true}, {-2 * day, time.Minute, false}, {-2*day + 2*time.Hour, 2 * time.Hour, true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			var c clock
			for i, l := range test.looks {
				why := c.distrust(begin.Add(l.wall), begin.Add(test.latest), begin.Add(l.real))
				if (why == "") != l.trusted {
					t.Errorf("look %d: %q", i, why)
				}
			}
		})
	}
}
