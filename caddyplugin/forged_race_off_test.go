//go:build !race

package caddyplugin_test

// timed says whether times mean anything: the race detector slows our code more
// than it slows the system's.
const timed = true
