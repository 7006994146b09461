package revocation

import (
	"slices"
	"time"
)

const (
	// fewest is how many changes must have been under way at once, twice in
	// succession, before any waits. Two are one caller's affair: what it asked
	// for, and what follows from that.
	fewest = 3
	// enough is how many share a sync at so small a part each that more need not
	// be waited for.
	enough = 64
	// gatherTime is the longest that a batch waits. It waits no longer than
	// gatherCommits times as long as the last commit took, either, and for the
	// next change no longer than nextCommits times.
	gatherTime    = 5 * time.Millisecond
	gatherCommits = 8
	nextCommits   = 4
	maxBatch      = 4096
)

// company is what the writer knows of how closely changes follow one another.
// It belongs to the writer goroutine alone.
type company struct {
	// expected is how many changes the last batch held and left in the queue:
	// whoever was answered may come again, and the others are here.
	expected int
	streak   int // how many batches in succession had fewest or more
	ending   time.Time
	took     time.Duration
}

func (c *company) ended(changes int, began time.Time) {
	c.expected, c.ending = min(changes, enough), time.Now()
	c.took = c.ending.Sub(began)
	c.streak++
	if changes < fewest {
		c.streak = 0
	}
}

// patience is how long a batch waits for the next change, and in all.
func (c *company) patience() (time.Duration, time.Duration) {
	return min(nextCommits*c.took, gatherTime), min(gatherCommits*c.took, gatherTime)
}

// wanted is how many changes a batch had better wait for, 0 for none.
func (c *company) wanted() int {
	_, all := c.patience()
	if c.streak < 2 || time.Since(c.ending) >= all {
		return 0
	}
	return c.expected
}

// gather begins o and whatever else has come in. While changes follow one another
// more closely than they can be committed one by one, it waits for as many as the
// last batch had to do with, so that they share a commit, and stops when none has
// come for a while. A commit takes more CPU than all the rest of a change, and the
// calls pay for it. What a change denies is in force before the batch waits.
func (l *Ledger) gather(o *op) []*op {
	wanted := l.company.wanted()
	batch := l.queued([]*op{l.begin(o)})
	if len(batch) >= wanted || l.failed.Load() {
		return batch
	}
	each, all := l.company.patience()
	end := time.Now().Add(all)
	for len(batch) < wanted && !slices.ContainsFunc(batch, isPrompt) {
		select {
		case next := <-l.ops:
			batch = append(batch, l.begin(next))
		case <-time.After(min(each, time.Until(end))):
			return batch
		case <-l.stop:
			return batch
		}
	}
	return l.queued(batch)
}

func isPrompt(o *op) bool { return o.prompt }

// queued begins what is in the queue and adds it to batch.
func (l *Ledger) queued(batch []*op) []*op {
	for len(batch) < maxBatch {
		select {
		case next := <-l.ops:
			batch = append(batch, l.begin(next))
		default:
			return batch
		}
	}
	return batch
}
