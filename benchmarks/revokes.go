package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-capif/aef/internal/coretest"
	"github.com/caddy-capif/aef/internal/testbed"
)

// coreCaller sends revokes as the core does: POST revoke-authorization (TS
// 29.222 9.1) to the callback, with the core's client certificate, over TLS
// connections that stay.
type coreCaller struct{ client *http.Client }

const revokers = 32

func (w *world) newCoreCaller() *coreCaller {
	core := w.scene.Core
	config := core.Identity().ClientTLS(core.CA())
	config.MinVersion = tls.VersionTLS12
	return &coreCaller{client: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{Proxy: nil, TLSClientConfig: config, MaxIdleConnsPerHost: revokers},
	}}
}

func (c *coreCaller) close() { c.client.CloseIdleConnections() }

// revoke revokes one API invoker and returns how long it took from the last byte
// of the request, as it was written, to the first byte of the answer.
func (c *coreCaller) revoke(ctx context.Context, callback, invoker string) (time.Duration, error) {
	body, err := json.Marshal(coretest.RevokeAuthorizationReq{SupportedFeatures: "0", RevokeInfo: coretest.SecurityNotification{
		APIInvokerID: invoker, AEFID: aefID, APIIDs: []string{testbed.APIID}, Cause: "OVERLIMIT_USAGE",
	}})
	if err != nil {
		return 0, err
	}
	// Both are set by goroutines of the transport.
	var written, answered atomic.Int64
	begin := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { written.Store(int64(time.Since(begin))) },
		GotFirstResponseByte: func() { answered.Store(int64(time.Since(begin))) },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, callback+"/aef-security/v1/revoke-authorization", strings.NewReader(string(body)))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("revoking %s: %d %.200s", invoker, response.StatusCode, text)
	}
	return time.Duration(answered.Load() - written.Load()), nil
}

// revokesFrom is the stream of that caller's revokes, as a background.
func (w *world) revokesFrom(caller *coreCaller) background {
	return func(ctx context.Context, g *gateway) func() outcome { return w.stream(ctx, caller, g) }
}

// stream revokes API invokers that make no calls, so many a second, until the
// returned function is called. That one waits for what was sent.
func (w *world) stream(ctx context.Context, caller *coreCaller, g *gateway) func() outcome {
	due, stop := context.WithCancel(ctx)
	begin := time.Now()
	var (
		next atomic.Int64
		mu   sync.Mutex
		o    outcome
		all  sync.WaitGroup
	)
	for range revokers {
		all.Go(func() {
			for {
				at := begin.Add(time.Duration(float64(next.Add(1)) / w.config.revokes * float64(time.Second)))
				select {
				case <-due.Done():
					return
				case <-time.After(time.Until(at)):
				}
				took, err := w.revokeOne(ctx, caller, g)
				mu.Lock()
				switch {
				case err == nil:
					o.done++
					if took > 0 {
						o.took = append(o.took, 1e3*took.Seconds())
					}
				case ctx.Err() == nil:
					o.refused++
					o.first = cmp.Or(o.first, err)
				}
				mu.Unlock()
			}
		})
	}
	return func() outcome {
		stop()
		all.Wait()
		return o
	}
}

// revokeOne returns how long the callback took, 0 where there is none.
func (w *world) revokeOne(ctx context.Context, caller *coreCaller, g *gateway) (time.Duration, error) {
	invoker := fmt.Sprintf("revoked-%08d", w.revoked.Add(1))
	switch {
	case g.callback != "":
		return caller.revoke(ctx, g.callback, invoker)
	case g.socket != "":
		return 0, g.denyAtHAProxy(ctx, invoker)
	}
	return 0, nil
}
