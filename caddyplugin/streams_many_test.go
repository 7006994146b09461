package caddyplugin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/internal/testbed"
)

// many opens n streams over HTTP/2, none of which is closed before the test ends.
func (b *streamBed) many(n int, path, token string) []*stream {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	all := make([]*stream, n)
	var group errgroup.Group
	group.SetLimit(32)
	for i := range all {
		group.Go(func() error {
			response, err := b.h2.Do(b.request(ctx, path, token))
			if err != nil {
				return err
			}
			buffer := make([]byte, 64)
			_, err = response.Body.Read(buffer)
			if err != nil || response.StatusCode != http.StatusOK {
				response.Body.Close()
				return fmt.Errorf("stream %d: %d %w", i, response.StatusCode, err)
			}
			all[i] = follow(func() error {
				_, err := response.Body.Read(buffer)
				return err
			}, func() { response.Body.Close() })
			return nil
		})
	}
	err := group.Wait()
	b.t.Cleanup(func() {
		cancel()
		for _, s := range all {
			if s != nil {
				<-s.ended
				s.close()
			}
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// distribution waits for the end of all and says how long it took since begun.
func (b *streamBed) distribution(name string, all []*stream, begun time.Time) time.Duration {
	b.t.Helper()
	took := make([]time.Duration, len(all))
	for i, s := range all {
		b.wantEnded(s)
		took[i] = s.at.Sub(begun)
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(time.Millisecond) }
	b.t.Logf("%s: %d streams ended: first %v, median %v, p90 %v, p99 %v, last %v", name, len(all), at(0), at(50), at(90), at(99), at(100))
	return took[len(took)-1]
}

// TestManyStreamsEnd ends the streams of one API invoker over shared HTTP/2
// connections, 1,000 of them, and 10,000 with CAPIF_LONG=1, beside a Caddy without
// us whose service API ends as many.
func TestManyStreamsEnd(t *testing.T) {
	n := 1000
	if os.Getenv("CAPIF_LONG") == "1" {
		n = 10_000
	}
	backend := &streamBackend{quit: make(chan struct{})}
	b := startStreams(t, backend, "end_streams", func(a *testbed.AEF) {
		a.SiteExtra += fmt.Sprintf("handle /bare/* {\n\treverse_proxy %s\n}\n", a.BackendAddress)
	})
	id, token := b.minted()
	_, other := b.minted()
	others := slices.Concat(b.many(50, "/location/sse", other), b.many(50, "/qos/sse", token))
	mine := b.many(n, "/location/sse", token)
	others = append(others, b.many(50, "/location/sse", other)...)

	begun := time.Now()
	b.revoke(id)
	last := b.distribution("end_streams, from the sending of the trigger", mine, begun)
	if last > 10*latest {
		t.Errorf("got the last stream ended after %v; want at most %v", last, 10*latest)
	}
	for _, s := range mine {
		if s.err == io.EOF { //nolint:errorlint // the plain end of a complete body
			t.Fatal("got a stream that looks complete; want an error")
		}
	}
	b.settled(len(others))
	for i, s := range others {
		if s.isOver() {
			t.Errorf("other stream %d: got it ended, %v; want it open", i, s.err)
		}
	}
	b.wantMetric(b.aef, fmt.Sprintf("capif_streams_ended_total{reason=\"authorization_revoked\"} %d\n", n))

	bare := b.many(n, "/bare/sse", "")
	begun = time.Now()
	close(backend.quit)
	b.distribution("without us, from the end at the service API", bare, begun)
}
