package enforce

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-capif/aef/internal/denycache"
	"github.com/caddy-capif/aef/internal/revocation"
	"github.com/caddy-capif/aef/internal/token"
)

// slow is a verifier that counts, and keeps each verification waiting until
// release is closed or its caller gives up.
type slow struct {
	*token.Verifier
	release chan struct{}
	count   atomic.Int32
	rotated atomic.Bool
}

func (s *slow) KeySetID() (token.KeySetID, bool) {
	if s.rotated.Load() {
		return token.KeySetID{1}, true
	}
	return s.Verifier.KeySetID()
}

func (s *slow) Verify(ctx context.Context, raw string, now time.Time) (token.Token, error) {
	s.count.Add(1)
	select {
	case <-s.release:
		return s.Verifier.Verify(ctx, raw, now)
	case <-ctx.Done():
		return token.Token{}, fmt.Errorf("given up: %w", ctx.Err())
	}
}

// switched claims deny everybody once denied is set.
type switched struct {
	epoch  atomic.Uint64
	denied atomic.Bool
	hold   chan struct{} // if set, the first lookup is late with its answer
	held   atomic.Bool
}

func (*switched) Ready() bool                   { return true }
func (s *switched) Epoch(string) *atomic.Uint64 { return &s.epoch }

func (s *switched) Covering(string, string, []string, revocation.Digest) revocation.Cover {
	cover := revocation.CoverNone
	if s.denied.Load() {
		cover = revocation.CoverAuthorization
	}
	if s.hold != nil && !s.held.Swap(true) {
		<-s.hold
	}
	return cover
}

// forgetful keeps the last entry that it was given, and finds none.
type forgetful struct {
	puts atomic.Int32
	last atomic.Pointer[denycache.Entry]
}

func (*forgetful) Get(string, *denycache.ID, denycache.ID) *denycache.Entry { return nil }

func (f *forgetful) Put(e *denycache.Entry, _ time.Duration) {
	f.puts.Add(1)
	f.last.Store(e)
}

// rush is a route at which calls arrive while a verification is under way.
type rush struct {
	t        *testing.T
	signer   *signer
	verifier *slow
	claims   *switched
	cache    *forgetful
	decider  *Decider
	answers  chan Decision
}

func inRush(t *testing.T, play func(r *rush)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rush{t: t, signer: newEd(), claims: &switched{}, cache: &forgetful{}, answers: make(chan Decision, 1000)}
		r.claims.epoch.Store(1)
		r.verifier = &slow{
			Verifier: must(token.NewVerifier(token.Settings{Leeway: token.NoLeeway}, newKeyRing(r.signer.key))),
			release:  make(chan struct{}),
		}
		r.decider = decider(t, testRoute(), r.verifier, r.claims, r.cache)
		play(r)
	})
}

// call starts so many calls and returns when all of them wait, or are answered.
func (r *rush) call(ctx context.Context, n int, raw string, at time.Time) {
	for range n {
		go func() { r.answers <- r.decider.Decide(ctx, raw, at) }()
	}
	synctest.Wait()
}

// want takes n answers, each with this reason.
func (r *rush) want(n int, reason Reason) {
	r.t.Helper()
	synctest.Wait()
	for range n {
		select {
		case got := <-r.answers:
			if got.Reason != reason {
				r.t.Errorf("got %v (%v); want %v", got.Reason, got.Err, reason)
			}
		default:
			r.t.Fatalf("got fewer answers than %d; want all, each %v", n, reason)
		}
	}
}

func (r *rush) wantVerified(n int32) {
	r.t.Helper()
	if got := r.verifier.count.Load(); got != n {
		r.t.Errorf("got %d verifications; want %d", got, n)
	}
}

func TestConcurrentFirstCallsVerifyOnce(t *testing.T) {
	inRush(t, func(r *rush) {
		raw := r.signer.good("inv")
		r.call(r.t.Context(), 100, raw, now)
		close(r.verifier.release)
		r.want(100, Allowed)
		r.wantVerified(1)
		if got := r.cache.puts.Load(); got != 1 {
			t.Errorf("got %d entries put; want 1", got)
		}
		if v, current := r.cache.last.Load().Verdict(); Reason(v) != Allowed || !current {
			t.Errorf("got verdict %v, current %v; want %v, current", Reason(v), current, Allowed)
		}
	})
}

// A forged token gains nothing: nothing of it is kept, and it holds up no other.
func TestForgedTokenHoldsUpNobody(t *testing.T) {
	inRush(t, func(r *rush) {
		good := r.signer.good("inv")
		forged := good[:len(good)-43] + newEd().good("inv")[len(good)-43:]
		r.call(r.t.Context(), 100, forged, now)
		r.wantVerified(1)
		release := r.verifier.release
		r.verifier.release = make(chan struct{})
		close(r.verifier.release) // open from here on, but not for the forged one
		r.call(r.t.Context(), 1, good, now)
		r.want(1, Allowed)
		close(release)
		r.want(100, TokenBadSignature)
		r.wantVerified(2)
		r.call(r.t.Context(), 1, forged, now)
		r.want(1, TokenBadSignature)
		r.wantVerified(3)
		if got := r.cache.puts.Load(); got != 1 {
			t.Errorf("got %d entries put; want that of the good token alone", got)
		}
	})
}

// What is shared is that the token is good. Whether it is denied is looked up by
// each call: one that starts after a deny was acknowledged is refused.
func TestDenyWhileOthersVerify(t *testing.T) {
	inRush(t, func(r *rush) {
		raw := r.signer.good("inv")
		r.call(r.t.Context(), 10, raw, now)
		r.claims.denied.Store(true)
		r.claims.epoch.Add(1)
		r.call(r.t.Context(), 10, raw, now)
		close(r.verifier.release)
		r.want(20, AuthorizationRevoked)
		r.wantVerified(1)
	})
}

// The same, with the deny after the other call's lookup.
func TestDenyWhileAnotherJudges(t *testing.T) {
	inRush(t, func(r *rush) {
		close(r.verifier.release)
		r.claims.hold = make(chan struct{})
		raw := r.signer.good("inv")
		r.call(r.t.Context(), 1, raw, now)
		r.claims.denied.Store(true)
		r.claims.epoch.Add(1)
		late := make(chan Decision, 1)
		go func() { late <- r.decider.Decide(r.t.Context(), raw, now) }()
		synctest.Wait()
		close(r.claims.hold)
		r.want(1, Allowed) // it began before the deny
		if got := <-late; got.Reason != AuthorizationRevoked {
			t.Errorf("got %v for a call that began after the deny; want %v", got.Reason, AuthorizationRevoked)
		}
	})
}

// Keys that were rotated out since serve no call that begins afterwards.
func TestRotationWhileOthersVerify(t *testing.T) {
	inRush(t, func(r *rush) {
		raw := r.signer.good("inv")
		r.call(r.t.Context(), 10, raw, now)
		r.verifier.rotated.Store(true)
		r.call(r.t.Context(), 10, raw, now)
		r.wantVerified(2)
		close(r.verifier.release)
		r.want(20, Allowed)
	})
}

func TestCallThatVerifiesGivesUp(t *testing.T) {
	inRush(t, func(r *rush) {
		raw := r.signer.good("inv")
		ctx, cancel := context.WithCancel(r.t.Context())
		r.call(ctx, 1, raw, now)
		r.call(r.t.Context(), 99, raw, now)
		cancel()
		r.want(1, TokenMalformed) // nobody reads that answer
		close(r.verifier.release)
		r.want(99, Allowed)
		r.wantVerified(2)
	})
}

// Each call has a time of its own.
func TestOthersVerifiedAtAnotherTime(t *testing.T) {
	nbf := now.Add(time.Second)
	for name, test := range map[string]struct {
		first, second         time.Time
		wantFirst, wantSecond Reason
	}{
		"before and at nbf":     {now, nbf, TokenNotYetValid, Allowed},
		"at and before nbf":     {nbf, now, Allowed, TokenNotYetValid},
		"before and at exp":     {nbf, time.Unix(soon, 0), Allowed, TokenExpired},
		"both in time":          {nbf, nbf, Allowed, Allowed},
		"both at exp and later": {time.Unix(soon, 0), time.Unix(soon+1, 0), TokenExpired, TokenExpired},
	} {
		t.Run(name, func(t *testing.T) {
			inRush(t, func(r *rush) {
				raw := r.signer.mint(fmt.Sprintf(`{"iss":"inv","exp":%d,"nbf":%d,"scope":%q}`, soon, nbf.Unix(), scopeOfA))
				r.call(r.t.Context(), 1, raw, test.first)
				second := make(chan Decision, 1)
				go func() { second <- r.decider.Decide(r.t.Context(), raw, test.second) }()
				synctest.Wait()
				r.wantVerified(1)
				close(r.verifier.release)
				r.want(1, test.wantFirst)
				if got := <-second; got.Reason != test.wantSecond {
					t.Errorf("got %v (%v) for the second; want %v", got.Reason, got.Err, test.wantSecond)
				}
			})
		})
	}
}

// The same token at two routes shares nothing: their scopes differ.
func TestRoutesShareNoVerification(t *testing.T) {
	inRush(t, func(r *rush) {
		raw := r.signer.good("inv")
		r.call(r.t.Context(), 1, raw, now)
		qos := decider(t, Route{AEFID: aef, APIName: "qos", APIIDs: []string{"api-2"}}, r.verifier, r.claims, r.cache)
		go func() { r.answers <- qos.Decide(r.t.Context(), raw, now) }()
		synctest.Wait()
		r.wantVerified(2)
		close(r.verifier.release)
		synctest.Wait()
		got := map[Reason]int{(<-r.answers).Reason: 1}
		got[(<-r.answers).Reason]++
		if got[Allowed] != 1 || got[InsufficientScope] != 1 {
			t.Errorf("got %v; want one allowed and one out of scope", got)
		}
	})
}

var (
	_ Verifier = (*slow)(nil)
	_ Claims   = (*switched)(nil)
	_ Cache    = (*forgetful)(nil)
)

func (s *switched) Passing(string, string, []string) *revocation.Passing { return nil }
