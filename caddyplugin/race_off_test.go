//go:build !race

package caddyplugin

const underRace = 1
