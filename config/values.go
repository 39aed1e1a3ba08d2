package config

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const mask = "********"

// Secret is a string that shows itself only to string(s): it is masked however it is printed, logged or marshaled.
// An empty Secret is shown as empty.
type Secret string

// String returns the mask.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format writes the mask for every verb: without it, a wrong verb would print the string.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString returns the mask.
func (s Secret) GoString() string { return s.String() }

// MarshalText returns the mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML returns the mask.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue returns the mask.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Size is a number of bytes, written as an integer or with a unit: 1000, 10kB, 256MiB, 1GB.
type Size int64

type unit struct {
	name  string
	bytes Size
}

// units lists the larger units first.
func units() []unit {
	return []unit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
	}
}

// String returns the size in the largest binary unit that keeps it whole.
func (s Size) String() string {
	for _, u := range units()[:4] {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText returns String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size. Units are read in any case.
func (s *Size) UnmarshalText(text []byte) error {
	digits, factor := string(text), Size(1)
	for _, u := range units() {
		if cut := len(digits) - len(u.name); cut >= 0 && strings.EqualFold(digits[cut:], u.name) {
			digits, factor = strings.TrimSpace(digits[:cut]), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/factor) {
		return fmt.Errorf("must be a size such as 256MiB or 1GB, not %q", clip(string(text)))
	}
	*s = Size(n) * factor
	return nil
}

// Network is a network in CIDR notation, or one address.
type Network struct{ netip.Prefix }

// UnmarshalText reads a network.
func (n *Network) UnmarshalText(text []byte) error {
	if p, err := netip.ParsePrefix(string(text)); err == nil {
		n.Prefix = p.Masked()
		return nil
	}
	a, err := netip.ParseAddr(string(text))
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("must be an address or a network such as 10.0.0.0/8, not %q", clip(string(text)))
	}
	n.Prefix = netip.PrefixFrom(a, a.BitLen())
	return nil
}

// parseDuration reads a duration that is not negative. Numbers without a unit are refused: distribution reads them as
// nanoseconds, which nobody means.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("must be a duration with its unit, such as 90s, 45m or 24h, not %q", clip(text))
	}
	return d, nil
}

// parseBool knows the booleans of YAML 1.1, which distribution reads.
func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "y":
		return true, nil
	case "false", "no", "off", "n":
		return false, nil
	}
	return false, fmt.Errorf("must be true or false, not %q", clip(text))
}

func parseInt(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number, not %q", clip(text))
	}
	return n, nil
}

// clip keeps a value from flooding a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
