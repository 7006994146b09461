package alarm

import (
	"log/slog"
	"testing"
)

// TestChanges: raised and cleared are one change each, a repeat is none, and a
// watcher that comes back is told what it missed.
func TestChanges(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	var s Set
	none, at, told := s.Changes(0)
	if len(none) != 0 || at == 0 {
		t.Errorf("got %+v at %d; want nothing, at a serial of now", none, at)
	}
	s.Raise(quiet, UnmappedAPI, "one")
	select {
	case <-told:
	default:
		t.Error("got not told; want told")
	}
	s.Raise(quiet, UnmappedAPI, "two")
	s.Clear(quiet, UnmappedAPI)
	s.Clear(quiet, UnmappedAPI)
	got, last, _ := s.Changes(at)
	if len(got) != 2 || !got[0].Raised || got[1].Raised || got[1].Count != 2 || got[1].Detail != "two" || got[0].Serial <= at || last != got[1].Serial {
		t.Errorf("got %+v, last %d; want raised and cleared after %d", got, last, at)
	}
	if got, _, _ := s.Changes(got[0].Serial); len(got) != 1 {
		t.Errorf("got %+v; want the second alone", got)
	}
	for range maxChanges {
		s.Raise(quiet, UnmappedAPI, "")
		s.Clear(quiet, UnmappedAPI)
	}
	if got, _, _ := s.Changes(0); len(got) != maxChanges {
		t.Errorf("got %d changes; want the last %d", len(got), maxChanges)
	}
}
