package revocation

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestRevocationsPageByPage(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	for i := range 25 {
		invoker := fmt.Sprintf("i%d", i%2)
		r := mustTrigger(t, l, Trigger{Invoker: invoker, AEF: "a", APIs: []string{fmt.Sprint(i)}, Cause: "X"})[0]
		if i%5 == 0 {
			mustRecord(t, l, r.Sequence, Progress{State: StateRevoked})
		}
	}
	tests := map[string]struct {
		query RevocationQuery
		want  []string
	}{
		"all":                    {RevocationQuery{}, apis(25, func(int) bool { return true })},
		"one at a time":          {RevocationQuery{Limit: 1}, apis(25, func(int) bool { return true })},
		"a page that just fits":  {RevocationQuery{Limit: 25}, apis(25, func(int) bool { return true })},
		"five pages that fit":    {RevocationQuery{Limit: 5}, apis(25, func(int) bool { return true })},
		"from beyond the end":    {RevocationQuery{Before: math.MaxUint64, Limit: 7}, apis(25, func(int) bool { return true })},
		"before the first":       {RevocationQuery{Before: 1}, nil},
		"of one invoker":         {RevocationQuery{Invoker: "i1", Limit: 4}, apis(25, func(i int) bool { return i%2 == 1 })},
		"of one state":           {RevocationQuery{State: StateRevoked, Limit: 2}, apis(25, func(i int) bool { return i%5 == 0 })},
		"both":                   {RevocationQuery{Invoker: "i0", State: StateRevoked, Limit: 3}, apis(25, func(i int) bool { return i%10 == 0 })},
		"nobody":                 {RevocationQuery{Invoker: "nobody"}, nil},
		"limit above the bound":  {RevocationQuery{Limit: MaxPage + 1}, apis(25, func(int) bool { return true })},
		"a limit that is absurd": {RevocationQuery{Limit: -1}, apis(25, func(int) bool { return true })},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			q := test.query
			for range 30 {
				page, next, err := l.Revocations(q)
				if err != nil || (q.Limit > 0 && len(page) > q.Limit) || (next != 0 && len(page) == 0) {
					t.Fatalf("got %d records, next %d, %v; want at most %d", len(page), next, err, q.Limit)
				}
				for _, r := range page {
					got = append(got, r.APIID)
				}
				if next == 0 {
					break
				}
				q.Before = next
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
}

// apis are the apiIds below n that are chosen, newest first.
func apis(n int, chosen func(int) bool) []string {
	var out []string
	for i := n - 1; i >= 0; i-- {
		if chosen(i) {
			out = append(out, fmt.Sprint(i))
		}
	}
	return out
}

func TestClaimsPageByPage(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	for _, invoker := range []string{"i", "ij", "j", "a longer name"} {
		mustDeny(t, l, Deny{Invoker: invoker, APIs: []string{"1", "2", "3", "4", "5"}})
	}
	for _, limit := range []int{1, 2, 5, 20, 21, 0} {
		for invoker, want := range map[string]int{"": 20, "i": 5, "ij": 5, "nobody": 0} {
			q := ClaimQuery{Invoker: invoker, Limit: limit}
			seen := map[Scope]bool{}
			for range 21 {
				page, next, err := l.Claims(q)
				if err != nil || (limit > 0 && len(page) > limit) {
					t.Fatalf("got %d claims, %v; want at most %d", len(page), err, limit)
				}
				for _, c := range page {
					if seen[c.Scope] || (invoker != "" && c.Invoker != invoker) || c.Sequence == 0 {
						t.Errorf("limit %d: got %+v; want each claim of %q once", limit, c, invoker)
					}
					seen[c.Scope] = true
				}
				if next == nil {
					break
				}
				// The claim that the cursor names may be gone by then.
				q.After = next
			}
			if len(seen) != want {
				t.Errorf("invoker %q, limit %d: got %d claims; want %d", invoker, limit, len(seen), want)
			}
		}
	}
}

func TestClaimsCursorSurvivesALift(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	mustDeny(t, l, Deny{Invoker: "i", APIs: []string{"1", "2", "3"}})
	first, next, err := l.Claims(ClaimQuery{Limit: 2})
	if err != nil || len(first) != 2 {
		t.Fatalf("got %v, %v; want two", first, err)
	}
	mustLift(t, l, Lift{Invoker: "i", APIs: []string{"2"}})
	rest, _, err := l.Claims(ClaimQuery{After: next})
	if err != nil || len(rest) != 1 || rest[0].API != "3" {
		t.Errorf("got %v, %v; want the claim on 3", rest, err)
	}
}

func TestRevocationIDs(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	other := openLedger(t, ledgerPath(t), Options{})
	r := mustTrigger(t, l, Trigger{Invoker: "i", AEF: "a", Cause: "X"})[0]
	same := mustTrigger(t, other, Trigger{Invoker: "i", AEF: "a", Cause: "X"})[0]
	if same.Sequence != r.Sequence || same.ID == r.ID {
		t.Errorf("got %s and %s; want equal numbers and different ids", r.ID, same.ID)
	}
	for _, id := range []string{"", "rv-", same.ID, r.ID + "0", r.ID + " ", "rv-" + l.tag + "-01", "rv-" + l.tag + "-+1", "rv-" + l.tag + "-"} {
		_, err := l.Revocation(id)
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %v; want %v", id, err, ErrNotFound)
		}
	}
}

// One damaged record hides no other from a listing, and is not hidden itself;
// what asks for it alone gets an error.
func TestListingWithADamagedRevocation(t *testing.T) {
	l := openLedger(t, ledgerPath(t), Options{})
	var made []Revocation
	for i := range 5 {
		r := mustTrigger(t, l, Trigger{Invoker: fmt.Sprintf("i%d", i%2), AEF: "a", APIs: []string{fmt.Sprint(i)}, Cause: "X"})[0]
		mustRecord(t, l, r.Sequence, Progress{State: StateRevoked})
		made = append(made, r)
	}
	damageRecord(t, l, bucketRevocations, sequenceKey(made[2].Sequence))
	for name, test := range map[string]struct {
		query RevocationQuery
		want  []int
	}{
		"all":                {RevocationQuery{}, []int{4, 3, 2, 1, 0}},
		"one at a time":      {RevocationQuery{Limit: 1}, []int{4, 3, 2, 1, 0}},
		"two at a time":      {RevocationQuery{Limit: 2}, []int{4, 3, 2, 1, 0}},
		"of another invoker": {RevocationQuery{Invoker: "i1", Limit: 1}, []int{3, 2, 1}},
		"of another state":   {RevocationQuery{State: StatePending}, []int{2}},
		"the damaged":        {RevocationQuery{State: StateDamaged}, []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []int
			for q := test.query; ; {
				page, next, err := l.Revocations(q)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range page {
					n := slices.IndexFunc(made, func(m Revocation) bool { return m.ID == r.ID && m.Sequence == r.Sequence })
					got = append(got, n)
					if damaged := r.State == StateDamaged; damaged != (n == 2) || damaged != (r.InvokerID == "") {
						t.Errorf("got %+v; want number 2 damaged, and no other", r)
					}
				}
				if next == 0 {
					break
				}
				q.Before = next
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v; want %v", got, test.want)
			}
		})
	}
	_, err := l.Revocation(made[2].ID)
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v; want %v", err, ErrDamaged)
	}
}
