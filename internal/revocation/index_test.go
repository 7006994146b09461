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
