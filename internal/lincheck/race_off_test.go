//go:build !race

package lincheck

const underRace = 1
