package caddyplugin

import (
	"fmt"
	"testing"
)

func TestLimitsHoldForEachAddressAndForAll(t *testing.T) {
	l := newLimits(1, 20) // an address: 5 at once
	allowed := func(address string, n int) int {
		count := 0
		for range n {
			if l.allow(address) {
				count++
			}
		}
		return count
	}
	if got := allowed("192.0.2.1:1000", 100); got < 5 || got > 6 {
		t.Errorf("one address: got %d allowed; want 5", got)
	}
	if got := allowed("192.0.2.1:2000", 100); got > 1 {
		t.Errorf("another port of it: got %d allowed; want none", got)
	}
	if got := allowed("[2001:db8::1]:1", 100) + allowed("[2001:db8::2]:1", 100); got < 5 || got > 7 {
		t.Errorf("two addresses of one IPv6 network: got %d allowed; want 5", got)
	}
	all := 0
	for i := range 10_000 {
		all += allowed(fmt.Sprintf("198.51.%d.%d:1", i/250, i%250), 1)
	}
	if all < 8 || all > 12 {
		t.Errorf("ten thousand addresses: got %d allowed; want the 10 that are left for all", all)
	}
	if got := len(l.now) + len(l.old); got > maxAddresses {
		t.Errorf("got %d addresses remembered; want at most %d", got, maxAddresses)
	}
	if got := allowed("not an address", 100); got > 1 {
		t.Errorf("no address: got %d allowed; want none beyond what all have", got)
	}
}
