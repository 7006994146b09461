//go:build race

package enforce

// underRace divides counts where the race detector makes everything slow.
const underRace = 10
