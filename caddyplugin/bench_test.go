package caddyplugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"go.uber.org/zap"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// bench is a capif_enforce made of its real parts, without a running Caddy.
type bench struct {
	handler *Enforce
	key     *ecdsa.PrivateKey
	ledger  *revocation.Ledger
}

func newBench(tb testing.TB) *bench {
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
	st, err := newState(filepath.Join(tb.TempDir(), "ledger.db"))
	if err != nil {
		tb.Fatal(err)
	}
	err = st.ledger.Open(revocation.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		err := st.ledger.Close()
		if err != nil {
			tb.Error(err)
		}
	})
	decider, err := enforce.NewDecider(enforce.Route{AEFID: "aef-1", APIName: "location", APIIDs: []string{"api-1"}}, verifier, st.ledger, st.cache)
	if err != nil {
		tb.Fatal(err)
	}
	return &bench{key: key, ledger: st.ledger, handler: &Enforce{
		app:     new(App),
		decider: decider, answers: newAnswers("aef-1"), counters: st.metrics.forRoute("location"), decided: st.metrics.timings.decide, log: zap.NewNop(),
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

// TestHandlerAllocations holds the hot path: a call with a token seen before
// allocates nothing, from the header to the next handler.
func TestHandlerAllocations(t *testing.T) {
	b := newBench(t)
	r := b.requests(t, 1)[0]
	w := httptest.NewRecorder()
	replacerOf(r).Set("http.auth.user.id", "") // Caddy's own map grows once for a request
	got := testing.AllocsPerRun(1000, func() {
		err := b.handler.ServeHTTP(w, r, called)
		if err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations for an allowed call with a cached token; want 0", got)
	}
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
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *denycache.Entry]{
		NumCounters: 1_000_000, MaxCost: 100_000, BufferItems: 64, IgnoreInternalCost: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer cache.Close()
	keys := make([]uint64, n)
	for i := range keys {
		keys[i] = uint64(i) * 0x9e3779b97f4a7c15
		for !cache.Set(keys[i], &denycache.Entry{}, 1) {
			cache.Wait()
		}
	}
	cache.Wait()
	for i := 0; b.Loop(); i++ {
		cache.Get(keys[i%n])
	}
}
