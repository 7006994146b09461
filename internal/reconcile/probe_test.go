package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/coreclient"
	"github.com/caddy-capif/aef/internal/reconcile"
	"github.com/caddy-capif/aef/internal/revocation"
)

// probeCore knows the invoker inv-1 and nobody else.
type probeCore struct {
	reads, flying, most atomic.Int32
	down                atomic.Bool
	hold                chan struct{} // if set, reads end when it is closed
}

func (c *probeCore) Context(ctx context.Context, invoker string) (coreclient.Context, error) {
	c.reads.Add(1)
	n := c.flying.Add(1)
	defer c.flying.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	if c.hold != nil {
		select {
		case <-c.hold:
		case <-ctx.Done():
			return coreclient.Context{}, &coreclient.Error{Err: ctx.Err()}
		}
	}
	switch {
	case c.down.Load():
		return coreclient.Context{}, &coreclient.Error{Err: errors.New("eof")}
	case invoker == "inv-1":
		return coreclient.Context{Entries: []coreclient.Entry{{AEFID: "aef-1", APIID: "api-1"}}}, nil
	}
	return coreclient.Context{}, &coreclient.Error{Status: 404, InCoreShape: true}
}

func probed(t *testing.T, core *probeCore, wait time.Duration) *reconcile.Reconciler {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	ledger := revocation.NewLedger(filepath.Join(t.TempDir(), "ledger.db"))
	err := ledger.Open(revocation.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	r := reconcile.New(ledger, new(alarm.Set))
	r.Apply(&reconcile.Settings{Core: core, Wait: wait, Hosted: func() []string { return []string{"aef-1"} }, Logger: logger})
	err = r.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Stop()
		err := ledger.Close()
		if err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestProbe(t *testing.T) {
	core := new(probeCore)
	r := probed(t, core, 10*time.Second)
	got, err := r.Probe(t.Context(), "inv-1")
	if err != nil || !got.Lists("aef-1", "api-1") {
		t.Fatalf("got %+v, %v; want what the core lists", got, err)
	}
	got, err = r.Probe(t.Context(), "inv-2")
	if err != nil || got.Found || len(got.Entries) != 0 {
		t.Fatalf("got %+v, %v; want no context", got, err)
	}
	if st := r.Status(); st.Invokers != 0 {
		t.Errorf("got %d records; want none of a name that nothing proves", st.Invokers)
	}
	core.down.Store(true)
	for range 5 {
		if got, err := r.Probe(t.Context(), "inv-1"); err == nil {
			t.Fatalf("got %+v; want an error: a probe remembers nothing", got)
		}
	}
	if !r.Status().Reachable {
		t.Error("got the core unreachable; want names that nothing proves not to say so")
	}
}

// What verified calls brought answers probes without a read, and decides when
// the core is down.
func TestProbeOfAKnownInvoker(t *testing.T) {
	core := new(probeCore)
	r := probed(t, core, 10*time.Second)
	answer := r.Check(t.Context(), reconcile.Query{Invoker: "inv-1", AEF: "aef-1", APIs: []string{"api-1"}, Require: true})
	if !answer.Listed {
		t.Fatalf("got %+v; want it listed", answer)
	}
	reads := core.reads.Load()
	got, err := r.Probe(t.Context(), "inv-1")
	if err != nil || !got.Found || core.reads.Load() != reads {
		t.Errorf("got %+v, %v, %d reads; want the known context, none", got, err, core.reads.Load()-reads)
	}
	core.down.Store(true)
	err = r.Hint(t.Context(), []string{"inv-1"}) // due: now a read is needed
	if err != nil {
		t.Fatal(err)
	}
	got, err = r.Probe(t.Context(), "inv-1")
	if err != nil || !got.Found || core.reads.Load() == reads {
		t.Errorf("got %+v, %v; want a read, and what is known after it failed", got, err)
	}
}

func TestProbesShareAndAreBounded(t *testing.T) {
	core := &probeCore{hold: make(chan struct{})}
	r := probed(t, core, 10*time.Second)
	var done sync.WaitGroup
	for i := range 40 {
		done.Go(func() {
			_, err := r.Probe(t.Context(), fmt.Sprintf("stranger-%d", i%4))
			if err != nil {
				t.Error(err)
			}
		})
	}
	for core.flying.Load() < 2 {
		select {
		case <-t.Context().Done():
			t.Fatal("no reads came")
		case <-time.After(time.Millisecond):
		}
	}
	close(core.hold)
	done.Wait()
	if core.most.Load() != 2 || core.reads.Load() < 4 {
		t.Errorf("got %d reads, %d at once; want at least 4, 2 at once", core.reads.Load(), core.most.Load())
	}
	if n := r.Status().Invokers; n != 0 {
		t.Errorf("got %d records; want none", n)
	}
}

func TestProbeEnds(t *testing.T) {
	core := &probeCore{hold: make(chan struct{})} // never closed
	r := probed(t, core, 50*time.Millisecond)
	_, err := r.Probe(t.Context(), "stranger")
	if err == nil {
		t.Error("got no error; want the wait to end")
	}
}
