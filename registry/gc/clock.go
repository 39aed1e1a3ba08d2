package gc

import (
	"fmt"
	"time"
)

const (
	// clockSlack is how far the clock may go back, as it does when it is set by the network.
	clockSlack = time.Minute
	// clockJump is how far the clock may depart from the time that really passed.
	clockJump = 24 * time.Hour
	// clockProbation is how long a clock that jumped has to run evenly before it is trusted again.
	clockProbation = time.Hour
)

// clock decides whether the time of the database can be trusted. Small machines have no battery for their clock, and
// begin in the past until the network corrects them.
type clock struct {
	wall, real time.Time // of the last look; real has a monotonic reading
	distrusted time.Time // until then, in real time
}

// distrust returns why now can't be trusted, or nothing. latest is the latest time ever seen, real is the process's own.
func (c *clock) distrust(now, latest, real time.Time) string {
	if c.wall.IsZero() {
		c.wall, c.real = now, real
	}
	jump := now.Sub(c.wall) - real.Sub(c.real)
	c.wall, c.real = now, real
	if jump.Abs() > clockJump {
		c.distrusted = real.Add(clockProbation)
		return fmt.Sprintf("the clock jumped by %s", jump.Round(time.Second))
	}
	if latest.Sub(now) > clockSlack {
		return "the clock is behind the time of an earlier run"
	}
	if real.Before(c.distrusted) {
		return fmt.Sprintf("the clock jumped less than %s ago", clockProbation)
	}
	return ""
}
