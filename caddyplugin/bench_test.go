package caddyplugin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/policy"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/streams"
	"github.com/caddy-capif/aef/internal/token"
)

// bench is a capif_enforce made of its real parts, without a running Caddy.
type bench struct {
	handler *Enforce
	key     *ecdsa.PrivateKey
	ledger  *revocation.Ledger
	policy  *policy.Table
	streams *streams.Registry
}

// newSigner makes a key of a core, and what verifies its tokens.
func newSigner(tb testing.TB) (*ecdsa.PrivateKey, *token.Verifier) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	public, err := token.NewKey(&key.PublicKey, "", "")
	if err != nil {
		tb.Fatal(err)
	}
	source, err := token.Fixed(public)
	if err != nil {
		tb.Fatal(err)
	}
	verifier, err := token.NewVerifier(token.Settings{}, source)
	if err != nil {
		tb.Fatal(err)
	}
	return key, verifier
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	key, verifier := newSigner(tb)
	st, err := newState(filepath.Join(tb.TempDir(), "ledger.db"))
	if err != nil {
		tb.Fatal(err)
	}
	err = st.ledger.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		err := errors.Join(st.policy.Stop(context.Background()), st.ledger.Close())
		if err != nil {
			tb.Error(err)
		}
	})
	decider, err := enforce.NewDecider(enforce.Route{AEFID: "aef-1", APIName: "location", APIIDs: []string{"api-1"}}, verifier, st.ledger, st.cache)
	if err != nil {
		tb.Fatal(err)
	}
	return &bench{key: key, ledger: st.ledger, policy: st.policy, streams: st.streams, handler: &Enforce{
		app:     new(App),
		decider: decider, answers: newAnswers("aef-1"), figures: st.metrics.forRoute("location"), traced: &st.traced, log: zap.NewNop(), sampled: zap.NewNop(),
	}}
}

func (b *bench) token(tb testing.TB, invoker string) string {
	tb.Helper()
	claims, err := json.Marshal(map[string]any{
		"iss": invoker, "exp": time.Now().Add(time.Hour).Unix(), "scope": "3gpp#aef-1:location,qos;aef-2:location", "jti": rand.Text(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	signed, err := jws.Sign(claims, jws.WithKey(jwa.ES256, b.key))
	if err != nil {
		tb.Fatal(err)
	}
	return string(signed)
}

func (b *bench) request(raw string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/location/1", nil)
	r.Header.Set("Authorization", "Bearer "+raw)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
}

var called = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// warm calls until the deny cache holds the verdict: ristretto takes a moment.
func (b *bench) warm(tb testing.TB, requests []*http.Request) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for _, r := range requests {
		for {
			raw, _ := enforce.Bearer(r.Header["Authorization"])
			if b.handler.decider.Decide(r.Context(), raw, time.Now()).Cached {
				break
			}
			if time.Now().After(deadline) {
				tb.Fatal("the deny cache did not take the verdicts in 30 s")
			}
		}
	}
}

func (b *bench) requests(tb testing.TB, n int) []*http.Request {
	tb.Helper()
	list := make([]*http.Request, n)
	for i := range list {
		list[i] = b.request(b.token(tb, fmt.Sprintf("invoker-%d", i)))
	}
	b.warm(tb, list)
	return list
}

// listsAll is a core whose contexts list everything, read just now.
type listsAll struct{ times denycache.Times }

func (l *listsAll) Check(context.Context, enforce.ContextQuery) enforce.ContextAnswer {
	l.times.ReadAt.Store(time.Now().UnixNano())
	return enforce.ContextAnswer{Listed: true, Known: true, Settled: true, Times: &l.times}
}

func (l *listsAll) Known(q enforce.ContextQuery) enforce.ContextAnswer {
	return l.Check(context.Background(), q)
}

func (*listsAll) WarnIfMapped(enforce.ContextQuery) {}

func (b *bench) followContexts() *listsAll {
	contexts := &listsAll{}
	b.handler.decider.UseContexts(contexts, enforce.ContextRule{Require: true, MaxStaleness: time.Hour})
	return contexts
}

// TestHandlerAllocations holds the hot path: a call with a token seen before
// allocates nothing, from the header to the next handler, whatever the route
// asks for. Caddy's own map of placeholders grows once for a request: apart.
func TestHandlerAllocations(t *testing.T) {
	certificate := func(leaf *x509.Certificate) func(*testing.T, *bench, *http.Request) {
		return func(_ *testing.T, b *bench, r *http.Request) {
			b.handler.Bind = bindClientCertificate
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
		}
	}
	deny := func(t *testing.T, b *bench, _ *http.Request) {
		err := b.ledger.Deny(t.Context(), revocation.Deny{Invoker: "invoker-0", APIs: []string{"api-1"}, Cause: "X"})
		if err != nil {
			t.Fatal(err)
		}
		b.handler.Mode = modeMonitor
	}
	for name, test := range map[string]struct {
		set    func(*testing.T, *bench, *http.Request)
		reason enforce.Reason
	}{
		"plain":                       {func(*testing.T, *bench, *http.Request) {}, enforce.Allowed},
		"bound to a common name":      {certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "invoker-0"}}), enforce.Allowed},
		"bound to a DNS name":         {certificate(&x509.Certificate{DNSNames: []string{"other", "invoker-0"}}), enforce.Allowed},
		"monitored, would be refused": {deny, enforce.AuthorizationRevoked},
		"a context is followed":       {func(_ *testing.T, b *bench, _ *http.Request) { b.followContexts() }, enforce.Allowed},
		"all at once": {func(t *testing.T, b *bench, r *http.Request) {
			b.followContexts()
			certificate(&x509.Certificate{DNSNames: []string{"invoker-0"}})(t, b, r)
			b.handler.Mode = modeMonitor
		}, enforce.Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := b.request(b.token(t, "invoker-0"))
			test.set(t, b, r)
			b.warm(t, []*http.Request{r})
			w := httptest.NewRecorder()
			for _, placeholder := range []string{"http.auth.user.id", "http.capif.reason"} {
				replacerOf(r).Set(placeholder, "")
			}
			passed := 0
			next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { passed++; return nil })
			got := leastAllocs(func() {
				err := b.handler.ServeHTTP(w, r, next)
				if err != nil {
					t.Fatal(err)
				}
			})
			if got != 0 {
				t.Errorf("got %v allocations for a call with a cached token; want 0", got)
			}
			raw, _ := enforce.Bearer(r.Header["Authorization"])
			d := b.handler.decider.Decide(r.Context(), raw, time.Now())
			if passed < 1001 || d.Reason != test.reason || !d.Cached {
				t.Errorf("got %d calls passed on, %v, cached %v; want 1001 or more, %v from the cache", passed, d.Reason, d.Cached, test.reason)
			}
		})
	}
}

// BenchmarkCount counts calls in one counter, alone and from all cores: what the
// calls of a route share.
func BenchmarkCount(b *testing.B) {
	counter := newBench(b).handler.figures.decisions[enforce.Allowed]
	b.Run("serial", func(b *testing.B) {
		for b.Loop() {
			counter.Inc()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				counter.Inc()
			}
		})
	})
}

// limit gives the handler a policy with every kind of limit, none of which is
// reached.
func (b *bench) limit() {
	total, perSecond := int64(1<<60), int64(1<<30)
	pair := policy.Pair{AEF: "aef-1", API: "api-1"}
	b.policy.Apply(&policy.Settings{
		Pairs: map[policy.Pair]policy.Source{pair: {Rules: &policy.Rules{All: &policy.Rule{
			Total: &total, PerSecond: &perSecond,
			Ranges: []policy.Range{{Start: time.Unix(0, 0), Stop: time.Unix(1<<33, 0)}},
		}}}},
		Logger: slog.New(slog.DiscardHandler),
	})
	b.handler.gate = b.policy.Gate(policy.GateOptions{AEF: pair.AEF, APIs: []string{pair.API}})
}

// TestHandlerAllocationsWithPolicy holds it with a policy, too: within what is
// reserved.
func TestHandlerAllocationsWithPolicy(t *testing.T) {
	b := newBench(t)
	b.limit()
	r := b.requests(t, 1)[0]
	w := httptest.NewRecorder()
	for range 2 { // the account is found and its first block reserved
		must1(t, b.handler.ServeHTTP(w, r, called))
	}
	got := leastAllocs(func() { must1(t, b.handler.ServeHTTP(w, r, called)) })
	if got != 0 || w.Code != http.StatusOK {
		t.Errorf("got %v allocations for a call with a policy, status %d; want 0 and 200", got, w.Code)
	}
	if used := b.policy.Stats(); used.Accounts != 1 {
		t.Errorf("got %+v; want one account", used)
	}
}

// leastAllocs is how many allocations a call of f takes, in the best of some
// rounds: the count is that of the whole process, and a goroutine of another test
// may be ending.
func leastAllocs(f func()) float64 {
	least := testing.AllocsPerRun(1000, f)
	for round := 0; least > 0 && round < 9; round++ {
		least = min(least, testing.AllocsPerRun(1000, f))
	}
	return least
}

func must1(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// BenchmarkHandlerPolicy is what a policy with every kind of limit adds to
// BenchmarkHandler: both in turn, for each number of API invokers.
func BenchmarkHandlerPolicy(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		bed := newBench(b)
		headers := headersOf(bed.requests(b, tokens))
		for _, name := range []string{"none", "all"} {
			if name == "all" {
				bed.limit()
				bed.firstCalls(headers)
			}
			b.Run(fmt.Sprintf("policy=%s/tokens=%d", name, tokens), func(b *testing.B) {
				r, w := bed.request("x"), httptest.NewRecorder()
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					r.Header["Authorization"] = headers[i%tokens]
					_ = bed.handler.ServeHTTP(w, r, called)
				}
			})
			b.Run(fmt.Sprintf("policy=%s/parallel/tokens=%d", name, tokens), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					r, w := bed.request("x"), httptest.NewRecorder()
					for i := 0; pb.Next(); i++ {
						r.Header["Authorization"] = headers[i%tokens]
						_ = bed.handler.ServeHTTP(w, r, called)
					}
				})
			})
		}
	}
}

// firstCalls makes the first call of each, which waits for the disk.
func (b *bench) firstCalls(headers [][]string) {
	var all errgroup.Group
	all.SetLimit(512)
	for _, header := range headers {
		all.Go(func() error {
			r := b.request("x")
			r.Header["Authorization"] = header
			return b.handler.ServeHTTP(httptest.NewRecorder(), r, called)
		})
	}
	_ = all.Wait()
}

// BenchmarkHandler is the whole capif_enforce for a cached token, header in to
// next handler called, beside a bare Get of ristretto. One request serves all
// tokens: what is measured is the handler, not the memory of its caller.
func BenchmarkHandler(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		bed := newBench(b)
		headers := headersOf(bed.requests(b, tokens))
		b.Run(fmt.Sprintf("allowed/tokens=%d", tokens), func(b *testing.B) {
			r, w := bed.request("x"), httptest.NewRecorder()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Header["Authorization"] = headers[i%tokens]
				_ = bed.handler.ServeHTTP(w, r, called)
			}
		})
		b.Run(fmt.Sprintf("allowed/parallel/tokens=%d", tokens), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r, w := bed.request("x"), httptest.NewRecorder()
				for i := 0; pb.Next(); i++ {
					r.Header["Authorization"] = headers[i%tokens]
					_ = bed.handler.ServeHTTP(w, r, called)
				}
			})
		})
		b.Run(fmt.Sprintf("ristretto/tokens=%d", tokens), func(b *testing.B) { bareGet(b, tokens) })
	}
	b.Run("denied", func(b *testing.B) {
		bed := newBench(b)
		err := bed.ledger.Deny(b.Context(), revocation.Deny{Invoker: "invoker-0", APIs: []string{"api-1"}, Cause: "X"})
		if err != nil {
			b.Fatal(err)
		}
		r := bed.requests(b, 1)[0]
		b.ReportAllocs()
		for b.Loop() {
			w := &nullWriter{header: make(http.Header, 8)}
			_ = bed.handler.ServeHTTP(w, r, called)
		}
	})
}

// BenchmarkHandlerBesideGet takes turns: a batch of calls, a batch of bare Gets of
// ristretto. The medians of many short batches, and above all that of their
// ratios, also mean something on a machine that others use. One op is a call
// and a Get.
func BenchmarkHandlerBesideGet(b *testing.B) {
	for _, tokens := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			bed := newBench(b)
			bed.followContexts()
			headers := headersOf(bed.requests(b, tokens))
			r, w := bed.request("x"), httptest.NewRecorder()
			header := r.Header["Authorization"] // changed in place: a map costs as much as a Get
			get := newBareGet(b, tokens)
			const batch = 500
			var calls, gets, ratios []float64
			done := 0
			for b.Loop() {
				if done++; done%batch != 0 {
					continue
				}
				start := time.Now()
				for i := range batch {
					header[0] = headers[(done+i)%tokens][0]
					_ = bed.handler.ServeHTTP(w, r, called)
				}
				middle := time.Now()
				for i := range batch {
					get((done + i) % tokens)
				}
				end := time.Now()
				calls = append(calls, float64(middle.Sub(start))/batch)
				gets = append(gets, float64(end.Sub(middle))/batch)
				ratios = append(ratios, calls[len(calls)-1]/gets[len(gets)-1])
			}
			b.ReportMetric(median(calls), "ns/call")
			b.ReportMetric(median(gets), "ns/get")
			b.ReportMetric(median(ratios), "ratio")
		})
	}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func headersOf(requests []*http.Request) [][]string {
	headers := make([][]string, len(requests))
	for i, r := range requests {
		headers[i] = r.Header["Authorization"]
	}
	return headers
}

type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

func bareGet(b *testing.B, n int) {
	get := newBareGet(b, n)
	for i := 0; b.Loop(); i++ {
		get(i % n)
	}
}

// newBareGet fills a ristretto of its own and returns a Get of its nth key.
func newBareGet(b *testing.B, n int) func(int) {
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *denycache.Entry]{
		NumCounters: 1_000_000, MaxCost: 100_000, BufferItems: 64, IgnoreInternalCost: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cache.Close)
	keys := make([]uint64, n)
	for i := range keys {
		keys[i] = uint64(i) * 0x9e3779b97f4a7c15
		for !cache.Set(keys[i], &denycache.Entry{}, 1) {
			cache.Wait()
		}
	}
	cache.Wait()
	return func(i int) { cache.Get(keys[i]) }
}
