// Package alarm holds the conditions that an operator should look at: raised
// once, counted while they last, cleared when they end. The set of names is
// closed: they label metrics.
package alarm

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Name is a kind of alarm.
type Name string

const (
	// LedgerCreated: a new ledger was made; claims that the core does not
	// know are lost if there was one before.
	LedgerCreated Name = "ledger_created"
	// LedgerDamaged: the record of a revocation cannot be read.
	LedgerDamaged Name = "ledger_damaged"
	// CoreRefusesUs: the core answered 401 or 403 to this AEF.
	CoreRefusesUs Name = "core_refuses_us"
	// RevocationUnconfirmed: the core said yes and still lists it.
	RevocationUnconfirmed Name = "revocation_unconfirmed"
	// UnmappedAPI: a claim names an apiId that no route stands for, or no
	// route tells an apiId that a revocation of all APIs could ask for.
	UnmappedAPI Name = "unmapped_api"
	// MassChangeSuspended: the core would newly refuse or newly list many
	// API invokers at once; that is withheld.
	MassChangeSuspended Name = "mass_change_suspended"
	// LikelyWrongAPIID: a context lists other apiIds than the route's.
	LikelyWrongAPIID Name = "likely_wrong_api_id"
	// SubscriptionFailed: events are to be subscribed to, and the core has
	// no subscription of ours.
	SubscriptionFailed Name = "subscription_failed"
	// AutomaticTriggersSpent: more automatic triggers were asked for than a
	// minute allows; the rest was refused.
	AutomaticTriggersSpent Name = "automatic_triggers_spent"
	// AutomaticTriggerFailed: the ledger did not take an automatic trigger.
	AutomaticTriggerFailed Name = "automatic_trigger_failed"
	// PolicyUnread: an access control policy could not be read from the core.
	PolicyUnread Name = "policy_unread"
)

// Names returns every alarm there can be.
func Names() []Name {
	return []Name{LedgerCreated, LedgerDamaged, CoreRefusesUs, RevocationUnconfirmed, UnmappedAPI, MassChangeSuspended, LikelyWrongAPIID,
		SubscriptionFailed, AutomaticTriggersSpent, AutomaticTriggerFailed, PolicyUnread}
}

// Alarm is one that is raised.
type Alarm struct {
	Name  Name      `json:"name"`
	Since time.Time `json:"since"`
	Last  time.Time `json:"last"`
	Count int       `json:"count"`
	// Detail says what was seen last and what to do.
	Detail string `json:"detail"`
}

// Change is an alarm that was raised or cleared.
type Change struct {
	// Serial orders changes, also those of another process before this one.
	Serial int64 `json:"serial"`
	Raised bool  `json:"raised"`
	Alarm
}

// maxChanges is how many changes are remembered.
const maxChanges = 256

// Set holds the alarms. The zero value is ready; it is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	raised map[Name]Alarm

	changes []Change      // the last ones, oldest first
	serial  int64         // of the last change
	told    chan struct{} // closed and replaced with each change
}

// Raise raises an alarm, logging its first occurrence.
func (s *Set) Raise(logger *slog.Logger, name Name, detail string) {
	now := time.Now().UTC()
	s.mu.Lock()
	a, known := s.raised[name]
	if !known {
		a = Alarm{Name: name, Since: now}
	}
	a.Last, a.Detail = now, detail
	a.Count++
	if s.raised == nil {
		s.raised = make(map[Name]Alarm)
	}
	s.raised[name] = a
	if !known {
		s.note(true, a)
	}
	s.mu.Unlock()
	if !known {
		logger.Warn("alarm raised", "alarm", string(name), "detail", detail)
	}
}

// Clear ends an alarm.
func (s *Set) Clear(logger *slog.Logger, name Name) {
	s.mu.Lock()
	a, known := s.raised[name]
	delete(s.raised, name)
	if known {
		a.Last = time.Now().UTC()
		s.note(false, a)
	}
	s.mu.Unlock()
	if known {
		logger.Info("alarm cleared", "alarm", string(name))
	}
}

// List returns the alarms that are raised, by name.
func (s *Set) List() []Alarm {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Alarm, 0, len(s.raised))
	for _, a := range s.raised {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Alarm) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return list
}

// note remembers a change; s is locked.
func (s *Set) note(raised bool, a Alarm) {
	s.serial = max(s.serial+1, time.Now().UnixMicro())
	s.changes = append(s.changes, Change{Serial: s.serial, Raised: raised, Alarm: a})
	s.changes = slices.Clone(s.changes[max(0, len(s.changes)-maxChanges):])
	if s.told != nil {
		close(s.told)
		s.told = nil
	}
}

// Changes returns what changed after a serial, oldest first, as far as it is
// remembered, the serial of the last change (that of now if there was none), and
// a channel that is closed at the next one.
func (s *Set) Changes(after int64) ([]Change, int64, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serial == 0 {
		s.serial = time.Now().UnixMicro()
	}
	if s.told == nil {
		s.told = make(chan struct{})
	}
	var later []Change
	for _, c := range s.changes {
		if c.Serial > after {
			later = append(later, c)
		}
	}
	return later, s.serial, s.told
}
