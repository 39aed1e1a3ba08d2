package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"berth/config"
	"berth/registry"
	"berth/registry/api"
	"berth/registry/gc"

	"github.com/VictoriaMetrics/metrics"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"
)

const (
	// lockWait is how long a start waits for the process before it, which may still be draining.
	lockWait = 10 * time.Second
	// headerTimeout bounds the handshake and a request's head. Bodies take as long as they come along (api.LimitBodies).
	headerTimeout = 30 * time.Second
	idleTimeout   = 3 * time.Minute
	// maxHeader is what a request's head may have: more than any client's token, and little enough for many at once.
	maxHeader = 64 << 10 // bytes
	// maxFrame is what a frame of HTTP/2 may have. Each connection holds one, and Go's default is a megabyte.
	maxFrame = 64 << 10 // bytes
	// maxWindow is what a client may send ahead over HTTP/2 while its upload waits, for memory or the disk.
	maxWindow = 512 << 10 // bytes
	// cutOffTimeout is how long requests have to notice that their connection is gone.
	cutOffTimeout = 10 * time.Second
)

func serveCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "serve [CONFIG]",
		Short: "Serve the registry",
		Long: `Serve the registry with the configuration file CONFIG, else with the one that REGISTRY_CONFIGURATION_PATH names, else
with /etc/docker/registry/config.yml or /etc/distribution/config.yml, else with defaults: HTTPS on port 5000.

SIGTERM stops it: requests that run have http.draintimeout to finish. A second signal ends it at once. SIGHUP reloads access
rules and groups and reopens the file of audit.output; the rules are also reloaded when CONFIG changes. A service manager that
wants to know is told when the registry is ready, reloads and stops (systemd: Type=notify).`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			path := followed(configPath(args, s.environ))
			known, _ := os.ReadFile(path) // what is wrong with it, loading it says
			c, warnings, err := s.loadConfig(args)
			if err != nil {
				return err
			}
			log := newLogger(c.Log, s.errOut)
			for _, w := range warnings {
				log.Warn("configuration", "warning", w)
			}
			return s.serve(command.Context(), c, &reloader{s: s, path: path, known: known, log: log, manager: newManager(s.environ, log), used: c})
		},
	}
}

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.MinLevel()}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.Formatter != "text" {
		handler = slog.NewJSONHandler(w, options)
	}
	log := slog.New(handler)
	for name, value := range c.Fields {
		log = log.With(name, value)
	}
	return log
}

// serve runs the registry until ctx ends, and then drains it. The reloader follows the configuration meanwhile.
func (s streams) serve(ctx context.Context, c *config.Config, reload *reloader) (err error) {
	log := reload.log
	if _, chosen := os.LookupEnv("GOGC"); !chosen {
		debug.SetGCPercent(garbage(c.Storage.Driver))
	}
	stores, err := lockStores(ctx, c, s.environ, lockWait, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	start, err := beginStart(ctx, adminSocket(c, stores.directory), reload.manager)
	if err != nil {
		return err
	}
	defer start.close()
	stores.progress = start.progress
	if err := stores.open(ctx, c, lockWait, log); err != nil {
		return err
	}
	if err := s.adopt(ctx, c, stores, log); err != nil {
		return err
	}
	limits, _ := quotas(c.Quota) // loading the configuration found no fault with them
	if err := stores.facts.SetQuotas(ctx, limits); err != nil {
		return fmt.Errorf("set quotas: %w", err)
	}
	if err := stores.openCache(ctx, c.Storage, log); err != nil {
		return err
	}
	images, err := openService(ctx, c, stores, log)
	if err != nil {
		return err
	}
	if reload.audit, err = s.openAudit(c.Audit, log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reload.audit.close()) }()
	if reload.login, err = openLogin(ctx, c, stores, reload.audit.Logger, log); err != nil {
		return err
	}
	defer reload.login.close()
	if err := shareAuthority(ctx, c, stores, log); err != nil {
		return err
	}
	entrance, err := listen(c.HTTP, stores.directory, log)
	if err != nil {
		return err
	}
	probe := &health{ping: stores.facts.Ping, stopped: ctx.Done(), log: log}
	debug, set, err := openDebug(c.HTTP.Debug, probe)
	if err != nil {
		return errors.Join(err, entrance.listener.Close())
	}
	keeper, reaper := newKeeper(c, stores, log), newReaper(c, stores, log)
	admin := start.done(adminHandler(stores, reload, reaper, keeper)) // before anybody reads that it is ready
	if reload.login.gate != nil && inTheClear(c.HTTP.TLS, entrance.listener.Addr()) {
		log.Warn("http.tls.mode is off: passwords arrive as everybody on the way can read them, unless a proxy in front ends TLS")
	}
	s.greet(c, entrance, stores.directory, reload.login)
	log.Info("listening", "addr", entrance.listener.Addr().String(), "tls", c.HTTP.TLS.Mode, "data", stores.directory, "version", versionString())
	stores.countCache(set)
	stores.countQuotas(set, log)
	stores.countServer(set, c, probe, reaper, entrance.source.Leaf)
	followPulls := func(ctx context.Context) {
		images.FollowPulls(ctx, func(err error) { log.Warn("pulls are not written down", "error", err) })
	}
	followUploads := func(ctx context.Context) {
		sometimes := rate.Sometimes{First: 1, Interval: time.Minute} // it is tried every second
		images.FollowUploads(ctx, func(err error) {
			sometimes.Do(func() { log.Error("uploads that have begun are not recorded", "error", err) })
		})
	}
	handler := front(entrance, probe, apiHandler(c, images, reload, set))
	services := append([]*service{
		{server: newServer(handler, c, log), listener: entrance.listener, drain: c.HTTP.DrainTimeout},
		admin,
	}, debug...)
	err = runServers(ctx, log, reload.tasks(append(keeper.tasks(), reaper.Run, followPulls, followUploads, entrance.source.Run, reload.manager.stopping)...), services...)
	return errors.Join(err, images.KeepUploads(context.WithoutCancel(ctx), 0))
}

// garbage is how much of it there may be, in percent of what is in use.
func garbage(driver string) int {
	if driver == "s3" {
		return 50 // storage.s3.memory is what uploads may hold: garbage is not to double what they need beside it
	}
	return 200 // little is in use, some MiB: collecting as often as Go does by default would take a tenth of the processor time of small requests
}

// inTheClear reports whether other machines send what they send without TLS.
func inTheClear(t config.TLS, addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return t.Mode == config.TLSOff && ok && !tcp.IP.IsLoopback()
}

// tasks adds to others what follows the files of the configuration.
func (l *reloader) tasks(others ...func(context.Context)) []func(context.Context) {
	others = append(others, l.run)
	if l.login.gate != nil {
		others = append(others, l.login.gate.Run)
	}
	for _, s := range l.login.shared {
		others = append(others, s.follow(l.log))
	}
	return others
}

// openService makes the registry, which goes on with the uploads that had just begun when the one before it ended.
func openService(ctx context.Context, c *config.Config, s *stores, log *slog.Logger) (*registry.Service, error) {
	begun, err := s.openJournal(metadataPath(c, s.directory)+journalSuffix, log)
	if err != nil {
		return nil, err
	}
	images := newService(c, s, log)
	return images, images.RecoverUploads(ctx, begun)
}

func newService(c *config.Config, s *stores, log *slog.Logger) *registry.Service {
	policies, _ := coverage(c.Policy)   // loading the configuration found no fault with it,
	indexes, _ := indexRules(c.Indexes) // nor with these
	immutable, _ := immutableTags(c.Immutability)
	var begun registry.Journal // which is no nil pointer
	if s.begun != nil {
		begun = s.begun
	}
	return registry.New(registry.Config{
		Blobs:         s.served(),
		Metadata:      s.facts,
		Inline:        s.inline,
		Journal:       begun,
		ChildRequired: childRequired(c.Validation),
		SparseImages:  !c.Validation.Disabled && c.Validation.Manifests.Indexes.Platforms == "none",
		Coverage:      policies,
		Indexes:       indexes,
		Immutable:     immutable,
		SparseDeletes: c.Storage.Delete.Children == "sparse",
		Redirect:      !c.Storage.Redirect.Disable,
		URLAllowed:    urlAllowed(c.Validation),
		Log:           log,
	})
}

func apiHandler(c *config.Config, service *registry.Service, l *reloader, set *metrics.Set) http.Handler {
	relative := c.HTTP.RelativeURLs
	settings := api.Config{
		Service:        service,
		Audit:          l.audit.Logger,
		Log:            l.log,
		Metrics:        set,
		AccessLog:      !c.Log.AccessLog.Disabled,
		Host:           c.HTTP.Host,
		AbsoluteURLs:   relative != nil && !*relative,
		Prefix:         c.HTTP.Prefix,
		Headers:        http.Header(c.HTTP.Headers),
		TrustedProxies: prefixes(c.HTTP.TrustedProxies),
		DeleteDisabled: !c.Storage.Delete.Enabled,
		ReadOnly:       c.Storage.Maintenance.ReadOnly.Enabled,
		CatalogMax:     c.Catalog.MaxEntries,
	}
	if l.login.gate != nil {
		gate := apiGate{l.login.gate}
		settings.Gate, settings.Tokens = gate, gate.tokens
	}
	return api.New(settings)
}

func prefixes(networks []config.Network) []netip.Prefix {
	all := make([]netip.Prefix, len(networks))
	for i, n := range networks {
		all[i] = n.Prefix
	}
	return all
}

// childRequired says which manifests of an index have to be there before it: nil means all.
func childRequired(v config.Validation) func(*v1.Platform) bool {
	indexes := v.Manifests.Indexes
	if v.Disabled {
		return nil
	}
	switch indexes.Platforms {
	case "none":
		return func(*v1.Platform) bool { return false }
	case "list":
		return func(p *v1.Platform) bool {
			for _, listed := range indexes.PlatformList {
				if p != nil && p.OS == listed.OS && p.Architecture == listed.Architecture {
					return true
				}
			}
			return false
		}
	}
	return nil
}

// urlAllowed says where layers that are kept elsewhere may be, as distribution does: nil means anywhere.
func urlAllowed(v config.Validation) func(string) bool {
	urls := v.Manifests.URLs
	if v.Disabled || urls == nil {
		return nil
	}
	return func(url string) bool {
		matches := func(r *regexp.Regexp) bool { return r.MatchString(url) }
		if len(urls.Allow) == 0 {
			return len(urls.Deny) > 0 && !slices.ContainsFunc(urls.Deny, matches)
		}
		return slices.ContainsFunc(urls.Allow, matches) && !slices.ContainsFunc(urls.Deny, matches)
	}
}

func newServer(handler http.Handler, c *config.Config, log *slog.Logger) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxReadFrameSize: maxFrame, MaxReceiveBufferPerConnection: maxWindow, MaxReceiveBufferPerStream: maxWindow},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
	if c.HTTP.H2C.Enabled {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
	}
	return server
}

// service is a server on a listener, and how long its requests have to finish when it stops.
type service struct {
	server   *http.Server
	listener net.Listener
	drain    time.Duration
	requests requests
	ended    chan error // has what it ended with; nil until it begins
}

// begin serves, until the server is shut down.
func (s *service) begin() {
	s.ended = make(chan error, 1)
	s.server.Handler = s.requests.count(s.server.Handler)
	go func() { s.ended <- s.server.Serve(s.listener) }()
}

// requests counts the requests that a handler works on.
type requests struct{ running atomic.Int64 }

func (r *requests) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.running.Add(1)
		defer r.running.Add(-1)
		next.ServeHTTP(w, request)
	})
}

// wait waits until no request is worked on, at most so long.
func (r *requests) wait(most time.Duration) {
	for deadline := time.Now().Add(most); r.running.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
}

// runServers serves, also what does not yet, and runs the tasks until ctx ends or a server fails, and then drains the servers.
func runServers(ctx context.Context, log *slog.Logger, tasks []func(context.Context), services ...*service) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failures := make(chan error, len(services))
	var running sync.WaitGroup
	for _, one := range services {
		if one.ended == nil {
			one.begin()
		}
		running.Go(func() {
			if err := <-one.ended; !errors.Is(err, http.ErrServerClosed) {
				failures <- err
				stop()
			}
		})
	}
	for _, task := range tasks {
		running.Go(func() { task(ctx) })
	}
	<-ctx.Done()
	log.Info("stopping", "requests", services[0].requests.running.Load())
	for _, one := range services {
		one.shutDown(log)
	}
	running.Wait()
	log.Info("stopped")
	close(failures)
	return <-failures
}

func newReaper(c *config.Config, s *stores, log *slog.Logger) *gc.Reaper {
	purging := c.Storage.Maintenance.UploadPurging
	retention, _ := retentionRules(c.Retention.Rules) // loading the configuration found no fault with them
	return gc.New(gc.Config{
		Metadata:          s.facts,
		Blobs:             s.served(),
		Interval:          c.GC.Interval,
		Rate:              c.GC.Rate,
		Retention:         retention,
		RetentionInterval: c.Retention.Interval,
		KeepUploads:       !purging.Enabled || purging.DryRun,
		Log:               log,
	})
}

// shutDown stops accepting, lets requests finish, and cuts off the connections of those that take too long. Their
// handlers keep what came until then, for which the stores have to be open.
func (s *service) shutDown(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		log.Warn("requests are cut off", "requests", s.requests.running.Load(), "draintimeout", s.drain)
		_ = s.server.Close()
		s.requests.wait(cutOffTimeout)
	}
}
