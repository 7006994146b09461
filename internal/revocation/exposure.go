package revocation

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Exposure is what passed between a trigger and the block, or the decision that
// ended a revocation without one. Calls that were being decided at that moment
// count as passed, so it is never too little. Nothing is known of the time before
// the trigger.
type Exposure struct {
	// Calls is how many passed.
	Calls int64 `json:"calls"`
	// LastPassedAt is when the last of them passed, at the latest.
	LastPassedAt time.Time `json:"last_passed_at,omitzero"`
}

// window counts the calls of one scope from a trigger on.
type window struct {
	scope Scope
	kept  bool // by a pending revocation; guarded by the lock of windows

	mu       sync.Mutex
	deciding int64 // calls that are being decided
	passed   int64
	last     time.Time
}

func (w *window) snapshot(now time.Time) *Exposure {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := &Exposure{Calls: w.passed + w.deciding, LastPassedAt: w.last.UTC()}
	if w.deciding > 0 {
		x.LastPassedAt = now
	}
	if x.Calls == 0 {
		x.LastPassedAt = time.Time{}
	}
	return x
}

// windows are those that are open. A window is opened before the epoch of its API
// invoker is raised: whoever reads the new epoch finds it.
type windows struct {
	open atomic.Int64 // so that nobody takes the lock while there are none

	mu         sync.Mutex
	byInvoker  map[string][]*window
	bySequence map[uint64]*window // of pending revocations without hold
}

func newWindows() *windows {
	return &windows{byInvoker: make(map[string][]*window), bySequence: make(map[uint64]*window)}
}

func (ws *windows) add(scopes []Scope) []*window {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	added := make([]*window, len(scopes))
	for i, s := range scopes {
		added[i] = &window{scope: s}
		ws.byInvoker[s.Invoker] = append(ws.byInvoker[s.Invoker], added[i])
	}
	ws.open.Add(int64(len(scopes)))
	return added
}

// drop closes windows, but those that belong to a pending revocation.
func (ws *windows) drop(list []*window) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range list {
		if !w.kept {
			ws.closeLocked(w)
		}
	}
}

func (ws *windows) closeLocked(w *window) {
	invoker := w.scope.Invoker
	list := ws.byInvoker[invoker]
	i := slices.Index(list, w)
	if i < 0 {
		return // closed before
	}
	ws.open.Add(-1)
	ws.byInvoker[invoker] = slices.Delete(slices.Clone(list), i, i+1)
	if len(list) == 1 {
		delete(ws.byInvoker, invoker)
	}
}

// bind keeps a window open until its revocation is no longer pending.
func (ws *windows) bind(sequence uint64, w *window) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.bySequence[sequence], w.kept = w, true
}

func (ws *windows) bound(sequence uint64) *window {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.bySequence[sequence]
}

func (ws *windows) unbind(sequence uint64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.bySequence[sequence]; w != nil {
		delete(ws.bySequence, sequence)
		ws.closeLocked(w)
	}
}

// Passing is a call that is being decided while a revocation counts it.
type Passing struct{ windows []*window }

// Passing notes a call of invoker to a route of aef that stands for apis, if a
// revocation counts those, and otherwise returns nil. Ask for it after reading the
// epoch and before [Ledger.Covering], do not keep an allowing verdict beyond this
// call, and end it with [Passing.End].
func (l *Ledger) Passing(invoker, aef string, apis []string) *Passing {
	if l.windows.open.Load() == 0 {
		return nil
	}
	l.windows.mu.Lock()
	defer l.windows.mu.Unlock()
	var p *Passing
	for _, w := range l.windows.byInvoker[invoker] {
		if w.scope.AEF != aef || (w.scope.API != "" && !slices.Contains(apis, w.scope.API)) {
			continue
		}
		if p == nil {
			p = &Passing{}
		}
		p.windows = append(p.windows, w)
		w.mu.Lock()
		w.deciding++
		w.mu.Unlock()
	}
	return p
}

// End says whether the call passed. Of nil it does nothing.
func (p *Passing) End(passed bool) {
	if p == nil {
		return
	}
	now := time.Now()
	for _, w := range p.windows {
		w.mu.Lock()
		w.deciding--
		if passed {
			w.passed++
			if now.After(w.last) {
				w.last = now
			}
		}
		w.mu.Unlock()
	}
}
