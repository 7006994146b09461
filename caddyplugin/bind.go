package caddyplugin

import (
	"crypto/tls"
	"fmt"
	"slices"
)

// Words of capif_enforce.
const (
	wordOn                = "on"
	wordOff               = "off"
	modeEnforce           = "enforce"
	modeMonitor           = "monitor"
	onErrorDeny           = "deny"
	onErrorAllow          = "allow"
	bindClientCertificate = "client_certificate"
)

// checkWords checks the settings that take one of a few words.
func (e *Enforce) checkWords() error {
	for _, setting := range []struct {
		name, value string
		accepted    []string
	}{
		{"require_context", e.RequireContext, []string{wordOn, wordOff}},
		{"mode", e.Mode, []string{modeEnforce, modeMonitor}},
		{"on_error", e.OnError, []string{onErrorDeny, onErrorAllow}},
		{"bind", e.Bind, []string{bindClientCertificate}},
	} {
		if setting.value != "" && !slices.Contains(setting.accepted, setting.value) {
			return fmt.Errorf("unknown %s %q; accepted: %v", setting.name, setting.value, setting.accepted)
		}
	}
	if e.MaxStaleness < 0 {
		return fmt.Errorf("max_staleness must not be negative")
	}
	return nil
}

// boundTo reports whether the caller's client certificate, which the site has
// verified, names the API invoker: as its common name or as a subject
// alternative name. On OpenCAPIF the common name is the invoker's id.
func boundTo(state *tls.ConnectionState, invoker string) bool {
	if state == nil || len(state.VerifiedChains) == 0 {
		return false
	}
	leaf := state.PeerCertificates[0]
	if leaf.Subject.CommonName == invoker || slices.Contains(leaf.DNSNames, invoker) {
		return true
	}
	for _, uri := range leaf.URIs {
		if uri.String() == invoker {
			return true
		}
	}
	return false
}
