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
	// clockPatience is how long a clock that is behind the noted time has to run evenly until it is believed that the
	// noted time was wrong.
	clockPatience = 24 * time.Hour
	// clockProbation is how long a clock that jumped has to run evenly before it is trusted again.
	clockProbation = time.Hour
)

// clock decides whether the time of the database can be trusted. Small machines have no battery for their clock, and
// begin in the past until the network corrects them.
type clock struct {
	wall, real time.Time // of the last look; real has a monotonic reading
	distrusted time.Time // until then, in real time
	even       time.Time // since then, in real time, the clock did not jump
}

// distrust returns why now can't be trusted, or nothing. noted is what was trusted last, real is the process's own time.
func (c *clock) distrust(now, noted, real time.Time) string {
	if c.wall.IsZero() {
		c.wall, c.real, c.even = now, real, real
	}
	jump := now.Sub(c.wall) - real.Sub(c.real)
	c.wall, c.real = now, real
	if jump.Abs() > clockJump {
		c.distrusted, c.even = real.Add(clockProbation), real
		return fmt.Sprintf("the clock jumped by %s", jump.Round(time.Second))
	}
	if noted.Sub(now) > clockSlack && real.Sub(c.even) < clockPatience {
		return fmt.Sprintf("the clock is behind an earlier time; if it is right, leave it alone for %s", clockPatience)
	}
	if real.Before(c.distrusted) {
		return fmt.Sprintf("the clock jumped less than %s ago", clockProbation)
	}
	return ""
}
