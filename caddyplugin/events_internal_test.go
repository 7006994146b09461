package caddyplugin

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// nobody is an events app without handlers.
type nobody struct{}

func (nobody) ShouldEmit(string) bool { return false }

func (nobody) Emit(caddy.Context, string, map[string]any) caddy.Event { return caddy.Event{} }

// TestNotifierWithNobodyToTell: it gives its turn back while its configuration still
// runs, so that the events of a next one do not wait, and get lost, until then.
func TestNotifierWithNobodyToTell(t *testing.T) {
	s := &state{feed: feed{turn: make(chan struct{}, 1)}}
	n := &notifier{events: nobody{}, started: make(chan struct{})}
	close(n.started)
	n.start(t.Context(), s)
	n.stop()
	select {
	case <-n.done:
	default:
		t.Fatal("got a notifier that runs; want it ended, with its configuration still there")
	}
	if len(s.feed.turn) != 0 || !s.feed.unheard {
		t.Errorf("got turn taken %d, unheard %v; want 0, true", len(s.feed.turn), s.feed.unheard)
	}
}
