package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"berth/conformance/client"
)

// result is what was measured of a row in a round.
type result struct {
	latencies []time.Duration // of each operation, sorted
	elapsed   time.Duration
	cpu       time.Duration // of the server; 0 when it is not known
}

// perSecond returns the rate of operations.
func (r result) perSecond() float64 { return float64(len(r.latencies)) / r.elapsed.Seconds() }

// percentile returns the latency that p percent of the operations stayed within.
func (r result) percentile(p int) time.Duration {
	return r.latencies[(len(r.latencies)-1)*p/100]
}

// cpuPerOperation returns the server's processor time for one operation, in nanoseconds.
func (r result) cpuPerOperation() float64 { return float64(r.cpu) / float64(len(r.latencies)) }

// measure repeats a row's operation on every connection until the duration is over, and waits for those that have begun
// then.
func measure(ctx context.Context, t *target, r row, s settings) (result, error) {
	workers, err := connect(ctx, t, r, s.connections)
	if err != nil {
		return result{}, err
	}
	defer closeAll(workers)
	before, err := t.cpu()
	if err != nil {
		return result{}, err
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.repeat(ctx, r, begin.Add(s.duration)) })
	}
	wg.Wait()
	elapsed := time.Since(begin)
	after, err := t.cpu()
	if err != nil {
		return result{}, err
	}
	latencies, err := collect(workers)
	return result{latencies: latencies, elapsed: elapsed, cpu: after - before}, err
}

// worker has one connection.
type worker struct {
	client    *client.Client
	latencies []time.Duration
	err       error
}

// connect makes workers whose connections are open. Each has done the operation once, so that caches are warm, unless it is a large one.
func connect(ctx context.Context, t *target, r row, n int) ([]*worker, error) {
	var workers []*worker
	for range n {
		c, err := t.client(r.http2)
		if err != nil {
			return nil, err
		}
		workers = append(workers, &worker{client: c})
		switch {
		case t.gateway || r.bytes == 0:
			err = r.do(ctx, c)
		default:
			err = ping(ctx, c)
		}
		if err != nil {
			closeAll(workers)
			return nil, err
		}
	}
	return workers, nil
}

func closeAll(workers []*worker) {
	for _, w := range workers {
		w.client.HTTP.CloseIdleConnections()
	}
}

// ping asks whether the registry speaks the API.
func ping(ctx context.Context, c *client.Client) error {
	response, err := c.Do(ctx, client.Request{Method: http.MethodGet, Target: "/v2/"}, http.StatusOK)
	if err != nil {
		return err
	}
	return drain(response.Body)
}

// repeat does the operation at least once.
func (w *worker) repeat(ctx context.Context, r row, until time.Time) {
	for begin := time.Now(); len(w.latencies) == 0 || begin.Before(until) && w.err == nil; begin = time.Now() {
		w.err = r.do(ctx, w.client)
		w.latencies = append(w.latencies, time.Since(begin))
	}
}

func collect(workers []*worker) ([]time.Duration, error) {
	var latencies []time.Duration
	var errs []error
	for _, w := range workers {
		latencies, errs = append(latencies, w.latencies...), append(errs, w.err)
	}
	slices.Sort(latencies)
	return latencies, errors.Join(errs...)
}
