//go:build !race

package enforce

const underRace = 1
