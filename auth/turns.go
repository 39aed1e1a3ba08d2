package auth

import (
	"sync"
	"time"
)

const (
	// maxWaiting and maxWaitingThere bound how many wait for their turn, in all and from one network.
	maxWaiting      = 1024
	maxWaitingThere = 64
)

// turns lets so many work at once and has the others wait. Networks take turns, however many wait in one of them, so that who
// tries passwords in a loop holds up its neighbours at most. Where too many wait, the last of the longest line is sent away.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting map[string][]chan bool // by network, in the order in which they came
	order   []string               // of networks in which somebody waits, the next one first
	count   int
}

func newTurns(slots int) *turns {
	return &turns{free: slots, waiting: make(map[string][]chan bool)}
}

// take waits for a turn, at most so long, and reports whether it came. A turn that came is to be given back.
func (t *turns) take(network string, most time.Duration) bool {
	turn, ok := t.enter(network)
	if !ok || turn == nil {
		return ok
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case came := <-turn:
		return came
	case <-timer.C:
		return t.leave(network, turn)
	}
}

// enter takes a turn that is free, and returns nil then, or gets in line: true comes with the turn, false to who is sent away. It
// reports false where the line is too long.
func (t *turns) enter(network string) (turn chan bool, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 {
		t.free--
		return nil, true
	}
	ahead := len(t.waiting[network])
	if ahead >= maxWaitingThere || t.count >= maxWaiting && !t.makeRoom(ahead) {
		return nil, false
	}
	if ahead == 0 {
		t.order = append(t.order, network)
	}
	turn = make(chan bool, 1)
	t.waiting[network] = append(t.waiting[network], turn)
	t.count++
	return turn, true
}

// makeRoom sends away the last of the longest line for one who comes to a line that stays shorter: networks share the room as they share
// the turns.
func (t *turns) makeRoom(ahead int) bool {
	longest := ""
	for network, line := range t.waiting {
		if len(line) > len(t.waiting[longest]) {
			longest = network
		}
	}
	last := len(t.waiting[longest]) - 1
	if last <= ahead {
		return false
	}
	t.waiting[longest][last] <- false
	t.remove(longest, last)
	return true
}

// leave gets out of line. It reports true when the turn came at the last moment.
func (t *turns) leave(network string, turn chan bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.waiting[network] {
		if other == turn {
			t.remove(network, i)
			return false
		}
	}
	return <-turn
}

// give gives a turn back: to the first who waits in the network whose turn it is.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) == 0 {
		t.free++
		return
	}
	network := t.order[0]
	t.waiting[network][0] <- true
	t.order = append(t.order[1:], network) // last in line, if anybody else waits there
	t.remove(network, 0)
}

func (t *turns) remove(network string, i int) {
	t.count--
	line := append(t.waiting[network][:i], t.waiting[network][i+1:]...)
	if len(line) > 0 {
		t.waiting[network] = line
		return
	}
	delete(t.waiting, network)
	for i, other := range t.order {
		if other == network {
			t.order = append(t.order[:i], t.order[i+1:]...)
			return
		}
	}
}
