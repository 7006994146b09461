package coretest

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// HTMLBody is an error page as a proxy in front of a core sends it.
const HTMLBody = "<html><head><title>error</title></head><body><h1>error</h1></body></html>\n"

// Fault is a way in which exchanges go wrong. What is set happens in this order: the operation is
// executed (Execute), Delay, Hang, then Drop or Status.
type Fault struct {
	Operations []string // which; none: every received request, but no sent message
	InvokerID  string   // only those about this API invoker; "": all
	Times      int      // how often; 0: until cleared

	// Execute lets the operation take effect first, so that Drop or Status hide a success.
	Execute bool
	Delay   time.Duration
	// Hang waits until Injected.Clear, Core.ClearFaults or Close.
	Hang bool
	// Drop closes the connection without an answer. On a sent message: it is not sent.
	Drop bool
	// Status, if not 0, is answered instead. On a sent message: taken as the answer, nothing is sent.
	Status int
	Header http.Header
	// Body of the answer; with "" it has the shape in which the dialect reports this status.
	Body        string
	ContentType string // default with Body: text/html if it begins with '<', else application/json
}

// Injected is a fault in force.
type Injected struct {
	fault    Fault
	owner    *faults
	reached  chan struct{} // closed at the first hit
	released chan struct{} // closed by Clear
	once     sync.Once
	hits     int // guarded by owner.mu
}

type faults struct {
	mu     sync.Mutex
	active []*Injected
}

// Inject puts a fault in force. Of several that match, the one injected last is taken.
func (c *Core) Inject(f Fault) *Injected {
	in := &Injected{fault: f, owner: &c.faults, reached: make(chan struct{}), released: make(chan struct{})}
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.active = append(c.faults.active, in)
	return in
}

// SwallowNotifications lets no message of the core out: the state changes, nobody is told.
func (c *Core) SwallowNotifications() *Injected {
	return c.Inject(Fault{Operations: []string{OpCallAEF, OpNotifyInvoker, OpNotifyEvent, OpNotifyTest}, Drop: true})
}

// NotFoundForAll answers 404, in the dialect's own shape, to every read of a context.
func (c *Core) NotFoundForAll() *Injected {
	return c.Inject(Fault{Operations: []string{OpGetContext}, Status: http.StatusNotFound})
}

// ClearFaults ends all faults and releases what hangs.
func (c *Core) ClearFaults() {
	c.faults.mu.Lock()
	all := slices.Clone(c.faults.active)
	c.faults.mu.Unlock()
	for _, in := range all {
		in.Clear()
	}
}

// Clear ends the fault and releases what hangs on it.
func (in *Injected) Clear() {
	in.once.Do(func() { close(in.released) })
	in.owner.mu.Lock()
	defer in.owner.mu.Unlock()
	in.owner.active = slices.DeleteFunc(in.owner.active, func(x *Injected) bool { return x == in })
}

// Reached is closed when the fault is first met: for a fault with Hang, a request is now hanging.
func (in *Injected) Reached() <-chan struct{} { return in.reached }

// Hits is how often the fault was met.
func (in *Injected) Hits() int {
	in.owner.mu.Lock()
	defer in.owner.mu.Unlock()
	return in.hits
}

// take finds the fault for an exchange and counts the hit.
func (f *faults) take(operation, invokerID string, sent bool) *Injected {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.active) - 1; i >= 0; i-- {
		in := f.active[i]
		if in.fault.Times > 0 && in.hits >= in.fault.Times {
			continue // used up; kept, so that ClearFaults releases what hangs on it
		}
		named := slices.Contains(in.fault.Operations, operation)
		if !named && (sent || len(in.fault.Operations) > 0) {
			continue
		}
		if in.fault.InvokerID != "" && in.fault.InvokerID != invokerID {
			continue
		}
		in.hits++
		if in.hits == 1 {
			close(in.reached)
		}
		return in
	}
	return nil
}

// pause does Delay and Hang. It is false if ctx has ended: then nothing more may happen. That a caller has
// gone away does not end it: like a slow core, the operation is still executed afterwards.
func (in *Injected) pause(ctx context.Context) bool {
	if in.fault.Delay > 0 {
		timer := time.NewTimer(in.fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-in.released:
		case <-ctx.Done():
		}
	}
	if in.fault.Hang {
		select {
		case <-in.released:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}

// answer is the reply that the fault puts in the place of the true one.
func (in *Injected) answer(d *dialect) reply {
	f := in.fault
	rep := d.fail(f.Status, "injected fault")
	if f.Body != "" {
		contentType := f.ContentType
		if contentType == "" {
			contentType = "application/json"
			if f.Body[0] == '<' {
				contentType = "text/html; charset=utf-8"
			}
		}
		rep = reply{status: f.Status, body: []byte(f.Body), header: http.Header{"Content-Type": {contentType}}}
	}
	for name, values := range f.Header {
		rep.header[http.CanonicalHeaderKey(name)] = values
	}
	return rep
}
