package coretest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scene is a core with two providers: prov-1 has the AEFs a, b and c, prov-2 has x. All expose "location",
// a also exposes "qos". The invoker has discovered location at a, b and x, not at c, and qos at a.
type scene struct {
	*Core
	t             *testing.T
	ctx           context.Context
	inv           *Invoker
	aefs          map[string]*fakeAEF // by short name
	a, b, other   string              // aefIds of a, b, x
	undiscovered  string              // aefId of c
	aefClient     *http.Client        // with the certificate of a
	noCertificate *http.Client
}

const (
	apiLocation = "8f36c0"
	apiQoS      = "77aa01"
)

func newScene(t *testing.T, opts Options) *scene {
	t.Helper()
	core, err := Start(opts)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := core.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	s := &scene{Core: core, t: t, ctx: ctx, aefs: map[string]*fakeAEF{}}
	core.AddProvider("prov-1")
	core.AddProvider("prov-2")
	for name, provider := range map[string]string{"a": "prov-1", "b": "prov-1", "c": "prov-1", "x": "prov-2"} {
		aef := newFakeAEF(t, core, core.AssignAEFID("aef-"+name))
		s.aefs[name] = aef
		s.must(core.AddAEF(AEF{ID: aef.id, ProviderID: provider, CallbackURL: aef.url}))
	}
	s.a, s.b, s.undiscovered, s.other = s.aefs["a"].id, s.aefs["b"].id, s.aefs["c"].id, s.aefs["x"].id
	s.must(core.PublishAPI(API{ID: apiLocation, Name: "location", AEFIDs: []string{s.a, s.b, s.undiscovered, s.other}}))
	s.must(core.PublishAPI(API{ID: apiQoS, Name: "qos", AEFIDs: []string{s.a}}))
	s.inv, err = core.NewInvoker("inv-1")
	s.must(err)
	t.Cleanup(func() { s.must(s.inv.Close()) })
	s.must(core.Discover("inv-1", apiLocation, s.a, s.b, s.other))
	s.must(core.Discover("inv-1", apiQoS, s.a))
	s.aefClient = core.Client(s.aefs["a"].identity)
	s.noCertificate = core.Client(nil)
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// authorize puts the context that most tests begin with.
func (s *scene) authorize() {
	s.t.Helper()
	s.must(s.inv.PutContext(s.ctx, Entry(s.a, apiLocation), Entry(s.a, apiQoS), Entry(s.b, apiLocation), Entry(s.other, apiLocation)))
}

// subscribe makes every AEF hear of every event by its own certificate-bound subscription.
func (s *scene) subscribeAll(destination func(*fakeAEF) string) {
	s.t.Helper()
	for _, name := range []string{"a", "b", "c", "x"} {
		aef := s.aefs[name]
		_, err := s.Subscribe(aef.id, EventSubscription{
			Events:                  []string{EventRevoked, EventOffboarded, EventInvokerUpdated, EventPolicyUpdate, EventPolicyUnavailable},
			NotificationDestination: destination(aef), SupportedFeatures: "4",
		})
		s.must(err)
	}
}

// quiesce waits until everything that was caused has been sent.
func (s *scene) quiesce() {
	s.t.Helper()
	s.must(s.Quiesce(s.ctx))
}

// entries shows a context as aefId/apiId.
func (s *scene) entries() []string {
	sec, _ := s.Context("inv-1")
	var out []string
	for _, e := range sec.SecurityInfo {
		out = append(out, e.AEFID+"/"+e.APIID)
	}
	return out
}

type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// do sends one request to the core.
func (s *scene) do(client *http.Client, method, path, contentType, body string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, method, s.URL()+path, strings.NewReader(body))
	s.must(err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	var buf bytes.Buffer
	_, err = io.Copy(&buf, resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: buf.String(), err: err}
}

func (s *scene) revokeJSON(body string) answer {
	s.t.Helper()
	return s.do(s.aefClient, http.MethodPost, "/capif-security/v1/trustedInvokers/inv-1/delete", "application/json", body)
}

func wantStatus(t *testing.T, got answer, want int) {
	t.Helper()
	if got.err != nil || got.status != want {
		t.Fatalf("got status %d, error %v, body %s; want status %d", got.status, got.err, got.body, want)
	}
}

func wantEqual[E comparable](t *testing.T, what string, got, want []E) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v; want %v", what, got, want)
	}
}

// fakeAEF records what the core sends to it.
type fakeAEF struct {
	id, url  string
	identity *Identity

	mu       sync.Mutex
	received []received
}

type received struct {
	method, path, body, caller string
	chunked                    bool
}

func newFakeAEF(t *testing.T, core *Core, id string) *fakeAEF {
	t.Helper()
	identity, err := core.IssueAEF(id)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAEF{id: id, identity: identity}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	srv.TLS = &tls.Config{
		Certificates: []tls.Certificate{identity.TLS}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: core.CA().Pool(),
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func (f *fakeAEF) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	got := received{method: r.Method, path: r.URL.Path, body: string(body), chunked: r.ContentLength < 0}
	if len(r.TLS.PeerCertificates) > 0 {
		got.caller = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	f.mu.Lock()
	f.received = append(f.received, got)
	f.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/revoke-authorization") {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"supportedFeatures":"1"}`)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// at lists what came in on one path.
func (f *fakeAEF) at(path string) []received {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []received
	for _, r := range f.received {
		if r.path == path {
			out = append(out, r)
		}
	}
	return out
}

const (
	callPath  = "/aef-security/v1/revoke-authorization"
	eventPath = "/capif/events"
)

func eventsTo(f *fakeAEF) string { return f.url + eventPath }

// deadAddress is a port of 127.0.0.1 where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	return "http://" + ln.Addr().String()
}

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || err != nil && strings.Contains(err.Error(), "EOF")
}

func asStatus(err error, target **StatusError) bool { return errors.As(err, target) }
