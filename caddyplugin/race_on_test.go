//go:build race

package caddyplugin

// underRace divides counts where the race detector makes everything slow.
const underRace = 20
