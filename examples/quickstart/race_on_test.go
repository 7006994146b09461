//go:build race

package main

// longest is no measure where the race detector makes everything slow.
const longest = limit
