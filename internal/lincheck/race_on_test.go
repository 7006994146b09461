//go:build race

package lincheck

// underRace divides counts where the race detector makes everything slow.
const underRace = 10
