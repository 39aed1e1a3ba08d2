package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseRange(t *testing.T) {
	const size = 2048
	tests := []struct {
		header  string
		want    span
		partial bool
		err     error
	}{
		{header: "", want: span{0, size}},
		{header: "bytes=500-1499", want: span{500, 1000}, partial: true},
		{header: "Bytes=0-0", want: span{0, 1}, partial: true},
		{header: "bytes=500-", want: span{500, 1548}, partial: true},
		{header: "bytes=-500", want: span{1548, 500}, partial: true},
		{header: "bytes=-5000", want: span{0, size}, partial: true},
		{header: "bytes=2000-5000", want: span{2000, 48}, partial: true},
		{header: "bytes=0-99999999999999999999999", want: span{0, size}, partial: true},
		{header: "lines=1-2", want: span{0, size}},
		{header: "bytes", want: span{0, size}},
		{header: "bytes=0-1,5-6", want: span{0, size}},
		{header: "bytes=500-0", err: errRangeInvalid},
		{header: "bytes=5000-10000", err: errRangeInvalid},
		{header: "bytes=2048-", err: errRangeInvalid},
		{header: "bytes=99999999999999999999999-", err: errRangeInvalid},
		{header: "bytes=-0", err: errRangeInvalid},
		{header: "bytes=-", err: errRangeInvalid},
		{header: "bytes=", err: errRangeInvalid},
		{header: "bytes=a-b", err: errRangeInvalid},
		{header: "bytes=+1-2", err: errRangeInvalid},
		{header: "bytes=1-+2", err: errRangeInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.header, func(t *testing.T) {
			got, partial, err := parseRange(tt.header, size)
			if !errors.Is(err, tt.err) || got != tt.want || partial != tt.partial {
				t.Errorf("got %+v, %v, %v; want %+v, %v, %v", got, partial, err, tt.want, tt.partial, tt.err)
			}
		})
	}
}

func TestParseRangeOfNothing(t *testing.T) {
	if got, partial, err := parseRange("bytes=0-", 0); err != nil || partial || got != (span{}) {
		t.Errorf("got %+v, %v, %v; want the empty whole", got, partial, err)
	}
}

// FuzzParseRange compares with the standard library's server of files, where there are bytes. That one knows several
// ranges besides, takes the last zero bytes for a range, and an empty set for the whole.
func FuzzParseRange(f *testing.F) {
	for _, header := range []string{"", "bytes=0-0", "bytes=5-", "bytes=-5", "bytes=9-1", "bytes=100-", "bytes=-0", "bytes=1-999", "bytes=a-", "x=1-2"} {
		f.Add(header, 100)
	}
	skipped := regexp.MustCompile(`[,\s]|[0-9]{18}|=-0+$|=$`)
	f.Fuzz(func(t *testing.T, header string, size int) {
		if size <= 0 || size > 1000 || skipped.MatchString(header) {
			return
		}
		if unit, _, ok := strings.Cut(header, "="); header != "" && (!ok || unit != "bytes") {
			return
		}
		code, contentRange := serveContent(header, size)
		got, partial, err := parseRange(header, int64(size))
		switch code {
		case http.StatusOK:
			if err != nil || partial || got != (span{0, int64(size)}) {
				t.Fatalf("parseRange(%q, %d) = %+v, %v, %v; want the whole", header, size, got, partial, err)
			}
		case http.StatusPartialContent:
			if want := fmt.Sprintf("bytes %s/%d", got, size); err != nil || !partial || contentRange != want {
				t.Fatalf("parseRange(%q, %d) = %s, %v, %v; want %s", header, size, want, partial, err, contentRange)
			}
		default:
			if !errors.Is(err, errRangeInvalid) {
				t.Fatalf("parseRange(%q, %d) = %+v, %v, %v; want an error", header, size, got, partial, err)
			}
		}
	})
}

func serveContent(header string, size int) (code int, contentRange string) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["Range"] = []string{header}
	w := httptest.NewRecorder()
	http.ServeContent(w, r, "x.bin", time.Time{}, strings.NewReader(strings.Repeat("x", size)))
	return w.Code, w.Header().Get("Content-Range")
}

func TestParseContentRange(t *testing.T) {
	tests := []struct {
		header string
		want   span
		ok     bool
	}{
		{"0-0", span{0, 1}, true},
		{"10-19", span{10, 10}, true},
		{"bytes 10-19/20", span{10, 10}, true},
		{"bytes 10-19/*", span{10, 10}, true},
		{"bytes 10-19", span{10, 10}, true},
		{"", span{}, false},
		{"10", span{}, false},
		{"10-", span{}, false},
		{"-10", span{}, false},
		{"19-10", span{}, false},
		{"10-19/20", span{}, false},
		{"bytes=10-19", span{}, false},
		{"a-b", span{}, false},
		{"+1-2", span{}, false},
		{"0--1", span{}, false},
		{"0-9223372036854775807", span{}, false},
		{"0-99999999999999999999", span{}, false},
		{" 1-2", span{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.header, func(t *testing.T) {
			if got, ok := parseContentRange(tt.header); got != tt.want || ok != tt.ok {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, header := range []string{"0-0", "1-2", "bytes 3-4/5", "bytes 3-4/*", "9-1", "x", "00-01", "0-9223372036854775806"} {
		f.Add(header)
	}
	form := regexp.MustCompile(`^(?:[0-9]+-[0-9]+|bytes [0-9]+-[0-9]+(?:/(?s:.*))?)$`)
	number := regexp.MustCompile(`[0-9]+`)
	f.Fuzz(func(t *testing.T, header string) {
		got, ok := parseContentRange(header)
		if !ok {
			return
		}
		if !form.MatchString(header) {
			t.Fatalf("parseContentRange(%q) = %+v, though it does not have the form", header, got)
		}
		numbers := number.FindAllString(header, 2)
		start, _ := strconv.ParseInt(numbers[0], 10, 64)
		end, _ := strconv.ParseInt(numbers[1], 10, 64)
		if got != (span{start, end - start + 1}) || got.length <= 0 {
			t.Fatalf("parseContentRange(%q) = %+v", header, got)
		}
	})
}
