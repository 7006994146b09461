package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// maxSourceBytes bounds a key file and the answer of a JWKS URL.
const maxSourceBytes = 1 << 20

var errTooBig = errors.New("more than 1 MiB: this is no set of keys")

// PEMFiles makes a source of the public keys and certificates in PEM files, any
// number of blocks in each. A private key is refused. The files are read again
// when one of them changes.
func PEMFiles(o Options, paths ...string) (Source, error) {
	return files("pem", o, paths, parsePEM)
}

// JWKSFile makes a source of a file with a JWK set (RFC 7517 5), read again when
// it changes.
func JWKSFile(o Options, path string) (Source, error) {
	return files("jwks", o, []string{path}, parseJWKS)
}

func files(kind string, o Options, paths []string, parse func([]byte) (loaded, error)) (Source, error) {
	if len(paths) == 0 || slices.Contains(paths, "") {
		return nil, fmt.Errorf("%s token keys: name at least one file", kind)
	}
	s := &fileSet{paths: slices.Clone(paths), parse: parse}
	name := kind + " file " + paths[0]
	if len(paths) > 1 {
		name = fmt.Sprintf("%s and %d more", name, len(paths)-1)
	}
	f := newFeed(name, o.withDefaults(fileEvery, fileFloor), s.load)
	f.changed = s.changed
	return f, nil
}

// fileSet reads files and notices when they change. Its feed lets one goroutine
// in at a time.
type fileSet struct {
	paths []string
	parse func([]byte) (loaded, error)
	seen  []os.FileInfo // as of the begin of the last load, by path
}

// changed reports whether a file is another one, or has another size or time,
// than before the last load. A symbolic link is followed.
func (s *fileSet) changed() bool {
	return !slices.EqualFunc(s.seen, s.stat(), func(a, b os.FileInfo) bool {
		if a == nil || b == nil {
			return a == nil && b == nil
		}
		return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
	})
}

func (s *fileSet) stat() []os.FileInfo {
	infos := make([]os.FileInfo, len(s.paths))
	for i, path := range s.paths {
		info, err := os.Stat(path)
		if err == nil {
			infos[i] = info
		}
	}
	return infos
}

// load reads all files: either every one is good, or the load has failed.
func (s *fileSet) load(ctx context.Context) (loaded, error) {
	s.seen = s.stat() // before reading: a change in between is seen next time
	var all loaded
	for _, path := range s.paths {
		if err := ctx.Err(); err != nil {
			return loaded{}, err
		}
		data, err := readFile(path)
		if err != nil {
			return loaded{}, err
		}
		got, err := s.parse(data)
		if err != nil {
			return loaded{}, fmt.Errorf("%s: %w", path, err)
		}
		all.keys = append(all.keys, got.keys...)
		for _, note := range got.notes {
			all.notes = append(all.notes, path+": "+note)
		}
	}
	return all, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe could block for ever
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := readBounded(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSourceBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSourceBytes {
		return nil, errTooBig
	}
	return bytes.TrimSpace(data), nil
}
