package coretest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Invoker is an API invoker: an HTTP client with its certificate and a notification endpoint. Close it
// before its core.
type Invoker struct {
	ID       string
	Identity *Identity
	// Base is the apiRoot of the core it uses. Default: Core.URL.
	Base string

	client  *http.Client
	server  *http.Server
	address string
	serving sync.WaitGroup

	mu       sync.Mutex
	notified []SecurityNotification
	changed  chan struct{} // closed at the next notification; nil while nobody waits
}

// StatusError is an answer of the core other than the one asked for.
type StatusError struct {
	Operation string
	Status    int
	Body      string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: the core answered %d: %s", e.Operation, e.Status, e.Body)
}

// NewInvoker onboards an API invoker, issues its certificate and starts its notification endpoint, which
// speaks HTTPS on 127.0.0.1.
func (c *Core) NewInvoker(id string) (*Invoker, error) {
	if err := c.AddInvoker(id); err != nil {
		return nil, err
	}
	identity, err := c.IssueInvoker(id)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start notification endpoint of %s: %w", id, err)
	}
	inv := &Invoker{ID: id, Identity: identity, Base: c.URL(), client: c.Client(identity), address: ln.Addr().String()}
	inv.server = &http.Server{
		Handler: http.HandlerFunc(inv.receive), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
	secure := tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{identity.TLS}, MinVersion: tls.VersionTLS12})
	inv.serving.Go(func() {
		if err := inv.server.Serve(secure); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("notification endpoint stopped", "api_invoker_id", id, "error", err)
		}
	})
	return inv, nil
}

// Close ends the notification endpoint; the invoker can still call. It may be called more than once.
func (i *Invoker) Close() error {
	err := i.server.Close()
	i.serving.Wait()
	i.client.CloseIdleConnections()
	return err
}

// NotificationURL is where the core tells it of revocations.
func (i *Invoker) NotificationURL() string { return "https://" + i.address + "/notifications" }

func (i *Invoker) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var n SecurityNotification
	if err := json.Unmarshal(body, &n); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	i.notified = append(i.notified, n)
	if i.changed != nil {
		close(i.changed)
		i.changed = nil
	}
	i.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// Notifications are those received, oldest first.
func (i *Invoker) Notifications() []SecurityNotification {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]SecurityNotification(nil), i.notified...)
}

// WaitNotification waits for the n-th notification, counted from 1.
func (i *Invoker) WaitNotification(ctx context.Context, n int) (SecurityNotification, error) {
	for {
		i.mu.Lock()
		if len(i.notified) >= n {
			got := i.notified[n-1]
			i.mu.Unlock()
			return got, nil
		}
		if i.changed == nil {
			i.changed = make(chan struct{})
		}
		changed := i.changed
		i.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return SecurityNotification{}, fmt.Errorf("wait for notification %d of %s: %w", n, i.ID, ctx.Err())
		}
	}
}

// PutContext creates its security context, or replaces it, with these entries.
func (i *Invoker) PutContext(ctx context.Context, entries ...SecurityInformation) error {
	body := mustJSON(ServiceSecurity{SecurityInfo: entries, NotificationDestination: i.NotificationURL(), SupportedFeatures: "4"})
	target := i.Base + "/capif-security/v1/trustedInvokers/" + url.PathEscape(i.ID)
	_, err := i.call(ctx, "put context", http.MethodPut, target, "application/json", body, http.StatusCreated)
	return err
}

// Token gets an access token; an empty scope asks a strict core for everything discovered.
func (i *Invoker) Token(ctx context.Context, scope string) (string, error) {
	return i.TokenAs(ctx, i.ID, scope)
}

// TokenAs asks with the client_id of another: two of the dialects do not mind.
func (i *Invoker) TokenAs(ctx context.Context, clientID, scope string) (string, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}}
	if scope != "" {
		form.Set("scope", scope)
	}
	target := i.Base + "/capif-security/v1/securities/" + url.PathEscape(i.ID) + "/token"
	answer, err := i.call(ctx, "get token", http.MethodPost, target, "application/x-www-form-urlencoded", []byte(form.Encode()), http.StatusOK)
	if err != nil {
		return "", err
	}
	var rsp AccessTokenRsp
	if err := json.Unmarshal(answer, &rsp); err != nil {
		return "", fmt.Errorf("get token: decode answer: %w", err)
	}
	return rsp.AccessToken, nil
}

// Call is one call of a service API with a token (none if empty), over client; nil takes the invoker's
// own client, which presents its certificate and trusts the core's CA. It returns status and body.
func (i *Invoker) Call(ctx context.Context, client *http.Client, target, token string) (int, string, error) {
	if client == nil {
		client = i.client
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, "", fmt.Errorf("call %s: %w", target, err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("call service API: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return resp.StatusCode, "", fmt.Errorf("call service API: read answer: %w", err)
	}
	return resp.StatusCode, string(body), nil
}

func (i *Invoker) call(ctx context.Context, operation, method, target, contentType string, body []byte, want int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("%s: read answer: %w", operation, err)
	}
	if resp.StatusCode != want {
		return nil, &StatusError{Operation: operation, Status: resp.StatusCode, Body: strings.TrimSpace(string(answer))}
	}
	return answer, nil
}
