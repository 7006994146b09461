//go:build !race

package main

import "time"

// longest is what a walk may take.
const longest = 10 * time.Second
