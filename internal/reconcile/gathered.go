package reconcile

import (
	"context"
	"sync"
)

// maxGathered bounds the names that wait for the end of their second; with more,
// all contexts become due.
const maxGathered = 10_000

// gathered are hints with names that wait for the end of their second.
type gathered struct {
	gatherer
	names struct {
		sync.Mutex
		waiting map[string]struct{}
	}
}

// HintGathered is [Reconciler.Hint] for what anybody could have sent: hints with
// names are gathered, too, so that an invoker whose name is sent a thousand times
// a second is read once in it.
func (r *Reconciler) HintGathered(ctx context.Context, invokers []string) error {
	if len(invokers) == 0 || !r.named.add(invokers) {
		return r.Hint(ctx, nil)
	}
	return r.named.join(ctx, r.raiseGathered)
}

// add is false if they are too many.
func (g *gathered) add(invokers []string) bool {
	g.names.Lock()
	defer g.names.Unlock()
	if len(g.names.waiting)+len(invokers) > maxGathered {
		return false
	}
	if g.names.waiting == nil {
		g.names.waiting = make(map[string]struct{})
	}
	for _, invoker := range invokers {
		g.names.waiting[invoker] = struct{}{}
	}
	return true
}

func (r *Reconciler) raiseGathered() {
	r.named.names.Lock()
	waiting := r.named.names.waiting
	r.named.names.waiting = nil
	r.named.names.Unlock()
	for invoker := range waiting {
		r.raise(invoker)
	}
	r.poke()
}
