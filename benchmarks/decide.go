package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/caddy-capif/aef/benchmarks/stats"
	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/testbed"
	"github.com/caddy-capif/aef/internal/token"
)

// decision is the cost of the decision alone, in this process: no HTTP, no Caddy.
type decision struct {
	claims, tokens int
	// Serial and Parallel are nanoseconds of a call whose verdict is cached, on
	// one core and, per call, on all of them.
	Serial, Parallel float64
	// IndexMB is the heap of the ledger's index, CacheMB that of the verdicts.
	IndexMB, CacheMB float64
}

const decisionRepeats = 7

// decisionCosts measures cached verdicts against claims and tokens, and what a
// token costs that is seen for the first time, in microseconds.
func (w *world) decisionCosts(ctx context.Context, claims []int) ([]decision, float64, error) {
	verifier, err := w.verifier()
	if err != nil {
		return nil, 0, err
	}
	var list []decision
	for _, n := range claims {
		of, err := w.decisionsAt(ctx, verifier, n)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, of...)
	}
	begin := time.Now()
	seen := w.tokens[:min(len(w.tokens), 5000)]
	for _, raw := range seen {
		_, err := verifier.Verify(ctx, raw, begin)
		if err != nil {
			return nil, 0, err
		}
	}
	return list, float64(time.Since(begin).Nanoseconds()) / 1e3 / float64(len(seen)), nil
}

func (w *world) verifier() (*token.Verifier, error) {
	data, err := os.ReadFile(w.keyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the token key is not PEM")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := token.NewKey(public, "", "")
	if err != nil {
		return nil, err
	}
	source, err := token.Fixed(key)
	if err != nil {
		return nil, err
	}
	return token.NewVerifier(token.Settings{}, source)
}

// decisionsAt opens a ledger of so many claims and decides with it.
func (w *world) decisionsAt(ctx context.Context, verifier *token.Verifier, claims int) ([]decision, error) {
	prepared, err := w.ledgerOf(ctx, claims)
	if err != nil {
		return nil, err
	}
	w.log("decisions with %d claims", claims)
	path := filepath.Join(w.dir, "decide.db")
	err = copyFile(path, prepared)
	if err != nil {
		return nil, err
	}
	before := heap()
	ledger := revocation.NewLedger(path)
	err = ledger.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler), MustExist: true})
	if err != nil {
		return nil, err
	}
	index := heap() - before
	var list []decision
	for _, n := range tokenCounts(len(w.tokens)) {
		var d decision
		d, err = w.decideWith(ctx, ledger, verifier, w.tokens[:n])
		if err != nil {
			break
		}
		d.claims, d.IndexMB = claims, index
		list = append(list, d)
	}
	return list, errors.Join(err, ledger.Close())
}

// tokenCounts are 1, 1,000 and all.
func tokenCounts(all int) []int {
	counts := []int{1}
	if all > 1000 {
		counts = append(counts, 1000)
	}
	return append(counts, all)
}

func (w *world) decideWith(ctx context.Context, ledger *revocation.Ledger, verifier *token.Verifier, tokens []string) (decision, error) {
	before := heap()
	cache, err := denycache.New(0)
	if err != nil {
		return decision{}, err
	}
	route := enforce.Route{AEFID: aefID, APIName: testbed.APIName, APIIDs: []string{testbed.APIID}}
	decider, err := enforce.NewDecider(route, verifier, ledger, cache)
	if err != nil {
		return decision{}, err
	}
	now := time.Now()
	for begin := time.Now(); ; {
		hits := 0
		for _, raw := range tokens {
			d := decider.Decide(ctx, raw, now)
			if d.Reason != enforce.Allowed {
				return decision{}, fmt.Errorf("a call was refused: %v", d.Reason)
			}
			if d.Cached {
				hits++
			}
		}
		if hits == len(tokens) {
			break
		}
		if time.Since(begin) > startLimit {
			return decision{}, fmt.Errorf("the cache holds %d of %d verdicts after %s", hits, len(tokens), startLimit)
		}
	}
	d := decision{tokens: len(tokens), CacheMB: heap() - before}
	defer runtime.KeepAlive(cache)
	d.Serial = w.timeDecisions(ctx, decider, tokens, now, 1)
	d.Parallel = w.timeDecisions(ctx, decider, tokens, now, runtime.GOMAXPROCS(0))
	return d, nil
}

// timeDecisions returns the median over the repeats of the nanoseconds for each
// call, all callers together.
func (w *world) timeDecisions(ctx context.Context, decider *enforce.Decider, tokens []string, now time.Time, callers int) float64 {
	var each []float64
	for range decisionRepeats {
		begin := time.Now()
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				i := caller * len(tokens) / callers
				for range w.config.decisions / callers {
					decider.Decide(ctx, tokens[i], now)
					i++
					if i == len(tokens) {
						i = 0
					}
				}
			})
		}
		all.Wait()
		each = append(each, float64(time.Since(begin).Nanoseconds())/float64(w.config.decisions))
	}
	return stats.Median(each)
}

// heap is what is reachable, in MB. A cache that is no longer used ends some time
// after the collection that finds it, so collections go on until three in a row
// have freed nothing.
func heap() float64 {
	least := math.Inf(1)
	for idle := 0; idle < 3; {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := float64(m.HeapAlloc) / 1e6
		idle++
		if now < least-0.05 {
			least, idle = now, 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	return least
}
