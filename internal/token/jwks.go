package token

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// JWKSOptions are the options of a JWKS URL.
type JWKSOptions struct {
	Options
	// Client fetches. Default: one of its own with the system's CAs. Its
	// redirects are bounded and never lead away from https.
	Client *http.Client
	// AllowHTTP permits a URL without TLS: whoever sits in between could then
	// make tokens.
	AllowHTTP bool
}

// JWKSURL makes a source of the JWK set (RFC 7517 5) at an https URL, such as
// the jwks_uri of a core. An error says what is wrong with the URL.
func JWKSURL(address string, o JWKSOptions) (Source, error) {
	u, err := url.Parse(address)
	if err != nil {
		// The text of err repeats the address, which may hold a password.
		return nil, errors.New("jwks url: not a URL")
	}
	switch {
	case u.Host == "":
		return nil, errors.New("jwks url: it has no host")
	case u.User != nil:
		return nil, errors.New("jwks url: it must not hold a user name or password")
	case u.Scheme == "http" && !o.AllowHTTP:
		return nil, errors.New("jwks url: http lets anybody in between make tokens: use https, or allow http in as many words")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("jwks url: scheme %q; want https", u.Scheme)
	}

	var own *http.Transport
	client := &http.Client{}
	if o.Client != nil {
		*client = *o.Client
	} else {
		own = http.DefaultTransport.(*http.Transport).Clone()
		client.Transport = own
	}
	if client.CheckRedirect == nil {
		client.CheckRedirect = checkRedirect
	}
	f := newFeed("jwks url "+u.Scheme+"://"+u.Host+u.EscapedPath(), o.withDefaults(urlEvery, urlFloor),
		func(ctx context.Context) (loaded, error) { return fetchJWKS(ctx, client, u.String()) })
	if own != nil {
		f.ended = own.CloseIdleConnections
	}
	return f, nil
}

func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("more than 3 redirects")
	}
	if via[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return errors.New("a redirect leads away from https")
	}
	return nil
}

func fetchJWKS(ctx context.Context, client *http.Client, address string) (loaded, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return loaded{}, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := client.Do(request)
	if err != nil {
		var withURL *url.Error // names the URL with its query again
		if errors.As(err, &withURL) {
			err = withURL.Err
		}
		return loaded{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return loaded{}, fmt.Errorf("the server answered status %d; want 200", response.StatusCode)
	}
	data, err := readBounded(response.Body)
	if err == nil {
		// A server that sees the deadline cut the connection may end its answer
		// properly in that moment, halfway through.
		err = ctx.Err()
	}
	if err != nil {
		return loaded{}, fmt.Errorf("read answer: %w", err)
	}
	return parseJWKS(data)
}

// parseJWKS takes the keys of a JWK set that can verify tokens. Others stand in
// the same set in real cores and are passed over: keys for encryption silently,
// what looks like a mistake with a note.
func parseJWKS(data []byte) (loaded, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	err := json.Unmarshal(data, &set)
	if err != nil || set.Keys == nil {
		return loaded{}, errors.New("this is not a JWK set: a JSON object with a list named keys")
	}
	if len(set.Keys) > maxKeys {
		return loaded{}, fmt.Errorf("the JWK set has %d keys; the most is %d", len(set.Keys), maxKeys)
	}
	var got loaded
	for i, raw := range set.Keys {
		key, note := parseJWK(raw)
		switch {
		case note != "":
			got.notes = append(got.notes, fmt.Sprintf("key %d of the JWK set is not used: %s", i+1, note))
		case key != nil:
			got.keys = append(got.keys, *key)
		}
	}
	if len(got.keys) == 0 {
		err := errors.New("the JWK set has no key that can verify tokens")
		if len(got.notes) > 0 {
			err = fmt.Errorf("%w: %s", err, got.notes[0])
		}
		return loaded{}, err
	}
	return got, nil
}

// parseJWK returns a key, or a note why there is none, or neither for a key of
// another purpose. A note holds nothing of the key.
func parseJWK(raw []byte) (*Key, string) {
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return nil, "its type is not known or its content is damaged"
	}
	switch parsed.(type) {
	case jwk.SymmetricKey:
		return nil, "it is a shared secret, which cannot verify tokens and should not be published"
	case jwk.RSAPrivateKey, jwk.ECDSAPrivateKey, jwk.OKPPrivateKey:
		return nil, "its private part is published, so anybody could make tokens with it: publish the public key only"
	}
	if use := parsed.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return nil, ""
	}
	if ops := parsed.KeyOps(); len(ops) > 0 && !slices.Contains(ops, jwk.KeyOpVerify) {
		return nil, ""
	}
	public, note := rawPublic(parsed)
	if note != "" {
		return nil, note
	}
	alg := ""
	if a := parsed.Algorithm(); a != nil {
		alg = a.String()
	}
	key, err := NewKey(public, parsed.KeyID(), alg)
	if err != nil {
		return nil, err.Error()
	}
	return &key, ""
}

func rawPublic(parsed jwk.Key) (any, string) {
	if k, ok := parsed.(jwk.RSAPublicKey); ok && len(k.E()) > 4 {
		// A longer exponent would not survive the conversion to an int.
		return (*rsa.PublicKey)(nil), "its exponent is too long: use 65537"
	}
	var public any
	err := parsed.Raw(&public)
	if err != nil {
		return nil, "its content is damaged"
	}
	return public, ""
}
