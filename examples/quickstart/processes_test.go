package main

import (
	"bytes"
	"os"
	"path/filepath"
)

// processes lists the processes that have the quickstart's folder in their
// environment. Where there is no /proc, none is seen.
func (q *quickstart) processes() []string {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		q.t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		environment, err := os.ReadFile(file)
		if err == nil && bytes.Contains(environment, []byte("TMPDIR="+q.tmp)) {
			found = append(found, filepath.Dir(file))
		}
	}
	return found
}
