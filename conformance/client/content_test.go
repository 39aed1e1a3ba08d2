package client

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestContentIsTheSameFromAnyOffset(t *testing.T) {
	c := Content{Seed: 7, Size: 2*blockSize + 100}
	whole, err := io.ReadAll(c.Reader(0))
	if err != nil || int64(len(whole)) != c.Size {
		t.Fatalf("read %d bytes, %v; want %d", len(whole), err, c.Size)
	}
	for _, offset := range []int64{0, 1, blockSize - 1, blockSize, blockSize + 1, c.Size - 1, c.Size} {
		rest, err := io.ReadAll(c.Reader(offset))
		if err != nil || !bytes.Equal(rest, whole[offset:]) {
			t.Errorf("from %d: %d bytes, %v, are not the rest", offset, len(rest), err)
		}
	}
}

func TestContentCheck(t *testing.T) {
	c := Content{Seed: 7, Size: 1000}
	if err := c.Check(c.Reader(0)); err != nil {
		t.Error(err)
	}
	for name, r := range map[string]io.Reader{
		"shorter": c.Reader(1),
		"longer":  io.MultiReader(c.Reader(0), strings.NewReader("x")),
		"other":   Content{Seed: 8, Size: 1000}.Reader(0),
		"failing": io.MultiReader(c.Reader(0), failing{}),
	} {
		if c.Check(r) == nil {
			t.Errorf("%s content passes for the right one", name)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
