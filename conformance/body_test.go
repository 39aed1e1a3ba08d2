package conformance

import (
	"io"

	"berth/conformance/client"
)

// halting is a body that halts somewhere in the middle until it is released.
type halting struct {
	io.Reader
	reached chan struct{} // closed when the body has got there
	release chan struct{} // to be closed by the test
}

// newHalting returns the bytes of a content from an offset on, with a halt at another.
func newHalting(content client.Content, from, halt int64) *halting {
	h := &halting{reached: make(chan struct{}), release: make(chan struct{})}
	h.Reader = io.MultiReader(io.LimitReader(content.Reader(from), halt-from), pause{h}, content.Reader(halt))
	return h
}

// pause is the place in a halting body: it is empty, but takes its time to say so.
type pause struct{ *halting }

func (p pause) Read([]byte) (int, error) {
	close(p.reached)
	<-p.release
	return 0, io.EOF
}
