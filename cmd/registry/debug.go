package main

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"path"

	"berth/config"

	"github.com/VictoriaMetrics/metrics"
)

// openDebug opens the port of http.debug, if there is one, and returns where to count for it, if anybody can ask.
func openDebug(c config.Debug, health http.Handler) ([]*service, *metrics.Set, error) {
	if c.Addr == "" {
		return nil, nil, nil
	}
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("http.debug.addr: %w", err)
	}
	var set *metrics.Set
	if c.Prometheus.Enabled {
		set = metrics.NewSet()
	}
	return []*service{{server: &http.Server{Handler: debugHandler(c, health, set), ReadHeaderTimeout: headerTimeout}, listener: listener}}, set, nil
}

// debugHandler serves profiles to this machine, and metrics, and the health where distribution's registry has it.
func debugHandler(c config.Debug, health http.Handler, set *metrics.Set) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /debug/health", health)
	for name, handler := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": http.NotFound, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		mux.HandleFunc("/debug/pprof/"+name, local(handler))
	}
	if set != nil {
		metricsPath := path.Clean("/" + cmp.Or(c.Prometheus.Path, "metrics"))
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != metricsPath { // which is no pattern: braces are braces
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			set.WritePrometheus(w)
			metrics.WriteProcessMetrics(w)
		})
	}
	return mux
}

// local refuses requests from other machines.
func local(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !peer.Addr().Unmap().IsLoopback() {
			http.Error(w, "profiles are for the machine that the registry runs on", http.StatusForbidden)
			return
		}
		handler(w, r)
	}
}
