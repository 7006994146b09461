// Package testbed starts real Caddy processes around a real core, for the tests
// and the quickstart.
//
// A Caddy is this very binary, started again: its main function (or TestMain)
// calls [RunChild] first. Each child has its own folder for everything it
// writes, its own admin address on 127.0.0.1, its own process group, and ends
// when its standard input closes, so that none outlives a parent that was
// killed.
package testbed
