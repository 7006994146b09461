package revocation

import "testing"

func TestIndexLower(t *testing.T) {
	tests := map[string]struct {
		added            []uint64
		limit, remaining uint64
		want             bool
	}{
		"what came before the lift goes":            {[]uint64{3}, 5, 0, false},
		"what came with the lift's own number goes": {[]uint64{5}, 5, 0, false},
		"what came after the lift stands":           {[]uint64{3, 6}, 5, 0, true},
		"another claim on the scope remains":        {[]uint64{3, 4}, 5, 3, true},
		"never added":                               {nil, 5, 0, false},
	}
	for name, test := range tests {
		for _, token := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				x := newIndex()
				scope := []byte("scope")
				x.add([]byte("neighbour"), token, 1)
				for _, sequence := range test.added {
					x.add(scope, token, sequence)
				}
				x.lower(scope, token, test.limit, test.remaining)
				if got := x.has(scope); got != test.want {
					t.Errorf("got %v; want %v", got, test.want)
				}
				size := int64(1)
				if test.want {
					size = 2
				}
				tokens := size
				if !token {
					tokens = 0
				}
				if x.size.Load() != size || x.tokenScopes.Load() != tokens {
					t.Errorf("got size %d, tokens %d; want %d, %d", x.size.Load(), x.tokenScopes.Load(), size, tokens)
				}
				if test.remaining > 0 { // it is the remaining one now that counts
					x.lower(scope, token, test.remaining, 0)
					if x.has(scope) {
						t.Error("after lifting the rest: got still there; want gone")
					}
				}
				if !x.has([]byte("neighbour")) {
					t.Error("neighbour: got gone; want there")
				}
			})
		}
	}
}

func TestEpochsStartAboveZeroAndOnlyRise(t *testing.T) {
	e := newEpochs()
	for _, invoker := range []string{"", "i", "j"} {
		before := e.of(invoker).Load()
		e.raiseAll()
		if after := e.of(invoker).Load(); before == 0 || after <= before {
			t.Errorf("got %d then %d; want above 0 and rising", before, after)
		}
	}
}

// Gathering for each shard must end where adding one by one does, also where
// shards are flushed on the way and scopes come twice.
func TestLoaderEndsWhereAddDoes(t *testing.T) {
	const scopes = 10 // on each of a few names: one shard each, past its bound
	one, gathered := newIndex(), newIndex()
	gathered.expect(scopes)
	into := &loader{index: gathered}
	scope := func(i int) []byte { return []byte{byte(i)} }
	add := func(i int, sequence uint64) {
		one.add(scope(i), i%2 == 0, sequence)
		into.add(scope(i), i%2 == 0, sequence)
	}
	for sequence := range uint64(loaderGathers + 1) {
		for i := range scopes {
			add(i, sequence+1)
		}
	}
	for i := range scopes {
		if !gathered.has(scope(i)) {
			t.Errorf("%d: got nothing of a full shard; want it flushed", i)
		}
		add(i, 3) // an older claim changes nothing
	}
	into.flush()
	add(scopes, 1)
	into.flush()
	for i := range scopes + 1 {
		highest := uint64(loaderGathers + 1)
		if i == scopes {
			highest = 1
		}
		for name, x := range map[string]*index{"one by one": one, "gathered": gathered} {
			x.lower(scope(i), i%2 == 0, highest-1, 0)
			if !x.has(scope(i)) {
				t.Errorf("%s, %d, lifted below its sequence: got gone; want there", name, i)
			}
			x.lower(scope(i), i%2 == 0, highest, 0)
			if x.has(scope(i)) {
				t.Errorf("%s, %d, lifted: got there; want gone", name, i)
			}
		}
	}
	if got, want := gathered.size.Load(), one.size.Load(); got != want || got != 0 {
		t.Errorf("size: got %d; want %d and none", got, want)
	}
	if got := gathered.tokenScopes.Load(); got != 0 {
		t.Errorf("token scopes: got %d; want none", got)
	}
}
