package revocation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	bolt "go.etcd.io/bbolt"
)

// Sizes in a page of bbolt: a header, and for each child of a branch page where
// its key is, how long that is, and the number of the child.
const (
	pageHeader    = 16
	branchElement = 16
	branchChild   = 8 // offset in it
)

// checkPages follows the branch pages from the root to the leaves, before bbolt
// does: where a damaged one points back, or at itself, bbolt goes down for ever and
// takes all memory. Leaves that come twice are seen by their keys: see ascending.
// It reads the database's own file: where locks belong to the process, closing
// another one would release it.
func checkPages(tx *bolt.Tx, file io.ReaderAt) error {
	w := &pageWalk{tx: tx, file: file, size: tx.DB().Info().PageSize, seen: map[uint64]bool{}}
	err := w.down(uint64(tx.Cursor().Bucket().Root()))
	for _, name := range buckets {
		if err != nil {
			break
		}
		if b := tx.Bucket(name); b != nil && b.Root() != 0 { // 0: it is so small that it lies in its parent
			err = w.down(uint64(b.Root()))
		}
	}
	if errors.Is(err, errDamaged) {
		err = damaged("the file", err)
	}
	return err
}

type pageWalk struct {
	tx   *bolt.Tx
	file io.ReaderAt
	size int
	seen map[uint64]bool // branch pages
}

func (w *pageWalk) down(id uint64) error {
	info, err := w.tx.Page(int(id))
	if err != nil {
		return err
	}
	if info == nil {
		return fmt.Errorf("%w: page %d is beyond its end", errDamaged, id)
	}
	switch info.Type {
	case "leaf":
		return nil
	case "branch":
	default:
		return fmt.Errorf("%w: page %d is %s where data should be", errDamaged, id, info.Type)
	}
	if w.seen[id] {
		return fmt.Errorf("%w: page %d is in it twice", errDamaged, id)
	}
	w.seen[id] = true
	elements := make([]byte, info.Count*branchElement)
	_, err = w.file.ReadAt(elements, int64(id)*int64(w.size)+pageHeader)
	if err != nil {
		return fmt.Errorf("%w: page %d: %w", errDamaged, id, err)
	}
	for ; len(elements) > 0; elements = elements[branchElement:] {
		err = w.down(binary.NativeEndian.Uint64(elements[branchChild:]))
		if err != nil {
			return err
		}
	}
	return nil
}
