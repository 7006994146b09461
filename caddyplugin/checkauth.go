package caddyplugin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/time/rate"

	"github.com/caddy-capif/aef/corecallback"
	"github.com/caddy-capif/aef/internal/revocation"
)

// CheckAuthentication limits check-authentication, which anybody can call. Each
// question that is answered can cost one read at the core, no more. One address
// gets a quarter of the rate and of the burst, at least one.
type CheckAuthentication struct {
	// Rate is how many questions are answered in a second, on average, whoever
	// asks. Default: 10.
	Rate int64 `json:"rate,omitempty"`

	// Burst is how many are answered at once. Default: 20.
	Burst int64 `json:"burst,omitempty"`
}

const (
	defaultCheckRate  = 10
	defaultCheckBurst = 20
	addressShare      = 4
	maxAddresses      = 1024
)

func (c *CheckAuthentication) unmarshal(d *caddyfile.Dispenser) error {
	err := none(d)
	if err != nil {
		return err
	}
	return eachWord(d, func(word string) error {
		switch word {
		case "rate":
			return number(d, &c.Rate)
		case "burst":
			return number(d, &c.Burst)
		default:
			return unrecognized(d, "rate", "burst")
		}
	})
}

// checker returns what answers, nil if nothing does.
func (c *CheckAuthentication) checker(app *App) (corecallback.CheckAuthenticator, error) {
	if c == nil {
		return nil, nil //nolint:nilnil // no option, no checker
	}
	perSecond, burst := c.Rate, c.Burst
	if perSecond == 0 {
		perSecond = defaultCheckRate
	}
	if burst == 0 {
		burst = defaultCheckBurst
	}
	if perSecond < 0 || burst < 0 {
		return nil, fmt.Errorf("check_authentication has rate %d and burst %d; give numbers of at least 1", perSecond, burst)
	}
	return &checker{app: app, limits: newLimits(int(perSecond), int(burst))}, nil
}

// checker answers by the security context: an API invoker that has an entry for
// this AEF can be authenticated here.
type checker struct {
	app    *App
	limits *limits
}

// CheckAuthentication implements corecallback.CheckAuthenticator.
func (c *checker) CheckAuthentication(ctx context.Context, q corecallback.CheckAuthentication) error {
	if !c.limits.allow(q.RemoteAddr) {
		return &corecallback.RetryError{Err: corecallback.ErrRateLimited, After: time.Second}
	}
	known, err := c.app.state.context.Probe(ctx, q.Invoker)
	if err != nil {
		return err
	}
	hosted, apis := c.app.hosted(), c.app.apisOf("")
	if slices.ContainsFunc(known.Entries, func(e revocation.ContextEntry) bool {
		if e.AEF == "" {
			return slices.Contains(apis, e.API)
		}
		return slices.Contains(hosted, e.AEF)
	}) {
		return nil
	}
	return corecallback.ErrUnknownInvoker
}

// limits are one limit for all and a smaller one for each address, so that one
// caller does not use up what all have. Of the addresses the latest are
// remembered: when there are too many, the older half is forgotten, and the limit
// for all holds all the same.
type limits struct {
	all              *rate.Limiter
	perSecond, burst int

	mu       sync.Mutex
	now, old map[netip.Addr]*rate.Limiter
}

func newLimits(perSecond, burst int) *limits {
	return &limits{
		all:       rate.NewLimiter(rate.Limit(perSecond), burst),
		perSecond: max(perSecond/addressShare, 1), burst: max(burst/addressShare, 1),
		now: make(map[netip.Addr]*rate.Limiter),
	}
}

// allow asks the limit of the address first: who exceeds it takes nothing from
// the others.
func (l *limits) allow(remote string) bool {
	return l.of(addressOf(remote)).Allow() && l.all.Allow()
}

func (l *limits) of(address netip.Addr) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.now[address]
	if limiter != nil {
		return limiter
	}
	limiter = l.old[address]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(l.perSecond), l.burst)
	}
	if len(l.now) >= maxAddresses/2 {
		l.old, l.now = l.now, make(map[netip.Addr]*rate.Limiter)
	}
	l.now[address] = limiter
	return limiter
}

// addressOf is the caller's address without port; of IPv6 the first 64 bits,
// which is what one caller has. What is no address shares one limit.
func addressOf(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	address := ap.Addr().Unmap().WithZone("")
	if address.Is6() {
		prefix, err := address.Prefix(64)
		if err == nil {
			return prefix.Addr()
		}
	}
	return address
}

var _ corecallback.CheckAuthenticator = (*checker)(nil)
