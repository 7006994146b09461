package autotrigger

import "time"

// window is what PerMinute is counted over.
const window = time.Minute

// budget counts what was accepted in the last minute: exactly, at any edge of
// it. A token bucket would let twice its size through in its first minute.
type budget struct {
	accepted []time.Time // oldest first, at most one limit
}

// take reports whether one more stays within the limit, and counts it then.
func (b *budget) take(now time.Time, limit int) bool {
	old := 0
	for old < len(b.accepted) && now.Sub(b.accepted[old]) >= window {
		old++
	}
	if old > 0 {
		b.accepted = append(b.accepted[:0], b.accepted[old:]...)
	}
	if len(b.accepted) >= limit {
		return false
	}
	b.accepted = append(b.accepted, now)
	return true
}

// giveBack takes one back that was counted at a time.
func (b *budget) giveBack(at time.Time) {
	for i := range b.accepted {
		if b.accepted[i].Equal(at) {
			b.accepted = append(b.accepted[:i], b.accepted[i+1:]...)
			return
		}
	}
}
