package corecallback_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/caddy-capif/aef/corecallback"
)

// blocker is a Consumer that keeps what is denied in a store of its own.
type blocker struct{}

func (blocker) Deny(_ context.Context, d corecallback.Deny) error {
	if d.AEFID != "" && d.AEFID != "aef-north-1" {
		return corecallback.ErrForeignAEF
	}
	// Write to disk and sync here; return corecallback.ErrNotDurable if that fails.
	fmt.Println("deny", d.Invokers, d.APIIDs, d.Cause)
	return nil
}

func (blocker) Gone(_ context.Context, invokers []string) error {
	fmt.Println("gone", invokers)
	return nil
}

func (blocker) Hint(_ context.Context, h corecallback.Hint) error {
	if len(h.Invokers) == 0 {
		fmt.Println("read every security context again")
		return nil
	}
	fmt.Println("read again", h.Invokers)
	return nil
}

func (blocker) PolicyChanged(context.Context, corecallback.Policy) error { return nil }

func (blocker) ServiceUnavailable(context.Context, []string) error { return nil }

// A core without a client certificate can only hint: here it says that somebody
// was revoked, and then, falsely or not, who.
func Example() {
	handler, err := corecallback.New(corecallback.Options{
		HintPath: "/capif/hints/3vZ8kq1W0yTn5RbL", // from an environment variable
		Consumer: blocker{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, body := range []string{
		`{"subscriptionId":"s","events":"API_INVOKER_AUTHORIZATION_REVOKED"}`,
		`{"subscriptionId":"s","events":"API_INVOKER_OFFBOARDED","eventDetail":{"apiInvokerIds":["inv-1"]}}`,
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/capif/hints/3vZ8kq1W0yTn5RbL", strings.NewReader(body)))
		fmt.Println(w.Code)
	}
	// Output:
	// read every security context again
	// 204
	// read again [inv-1]
	// 204
}

// A server for a core with a client certificate. It asks for one and leaves
// the judgement to the handler.
func ExampleNew() { //nolint:testableexamples // it would serve for ever
	identity, err := corecallback.ParseIdentity("san", "capifcore.example")
	if err != nil {
		fmt.Println(err)
		return
	}
	pem, err := os.ReadFile("core-ca.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	coreCA := x509.NewCertPool()
	coreCA.AppendCertsFromPEM(pem)
	handler, err := corecallback.New(corecallback.Options{
		Identities: []corecallback.Identity{identity},
		CoreCA:     coreCA,
		Consumer:   blocker{},
		Logger:     slog.Default(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := &http.Server{
		Addr:              ":8443",
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		TLSConfig:         &tls.Config{ClientAuth: tls.RequestClientCert},
	}
	fmt.Println(server.ListenAndServeTLS("aef.crt", "aef.key"))
}

var _ corecallback.Consumer = blocker{}
