package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// span is a run of bytes.
type span struct {
	start, length int64
}

// String returns the span as header fields write it, both ends included.
func (s span) String() string { return fmt.Sprintf("%d-%d", s.start, s.start+s.length-1) }

// parseRange reads a Range header for content of size bytes (RFC 9110, section 14.2), and reports whether it asks for
// a part. It fails with errRangeInvalid when there is no such part.
//
// What it may ignore it ignores: units other than bytes, several ranges at once, and every range of empty content.
func parseRange(header string, size int64) (span, bool, error) {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(unit, "bytes") || strings.Contains(set, ",") || size == 0 {
		return span{0, size}, false, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(set), "-")
	if !ok {
		return span{}, false, errRangeInvalid
	}
	if first == "" {
		return suffix(last, size)
	}
	start, ok := parseOffset(first)
	end := size - 1
	if ok && last != "" {
		end, ok = parseOffset(last)
		end = min(end, size-1)
	}
	if !ok || start > end {
		return span{}, false, errRangeInvalid
	}
	return span{start, end - start + 1}, true, nil
}

// suffix is the last n bytes.
func suffix(n string, size int64) (span, bool, error) {
	length, ok := parseOffset(n)
	if !ok || length == 0 {
		return span{}, false, errRangeInvalid
	}
	length = min(length, size)
	return span{size - length, length}, true, nil
}

// parseContentRange reads the Content-Range header of a chunk: "0-99" as the OCI distribution spec has it ("Pushing a
// blob in chunks"), and "bytes 0-99/*" as HTTP has it.
func parseContentRange(header string) (span, bool) {
	s, isHTTP := strings.CutPrefix(header, "bytes ")
	if isHTTP {
		s, _, _ = strings.Cut(s, "/")
	}
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return span{}, false
	}
	start, startOK := parseOffset(first)
	end, endOK := parseOffset(last)
	if !startOK || !endOK || end < start || end == math.MaxInt64 {
		return span{}, false
	}
	return span{start, end - start + 1}, true
}

// parseOffset reads a number of digits only. What is larger than any blob becomes the largest number.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return math.MaxInt64, true
	}
	return n, true
}
