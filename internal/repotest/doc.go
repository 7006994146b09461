// Package repotest holds no code: its tests hold the repository to its own rules, such as which package
// may import which, and that every package says once what it is.
package repotest
