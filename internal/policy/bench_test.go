package policy

import (
	"context"
	"fmt"
	"math/bits"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-capif/aef/internal/alarm"
	"github.com/caddy-capif/aef/internal/enforce"
	"github.com/caddy-capif/aef/internal/revocation"
)

func everything() *Rule {
	return &Rule{
		Total: number(1 << 60), PerSecond: number(1 << 30),
		Ranges: []Range{{time.Unix(0, 0), time.Unix(1<<32, 0)}},
	}
}

func ledgerTable(tb testing.TB, rule *Rule) *Gate {
	tb.Helper()
	ledger := revocation.NewLedger(filepath.Join(tb.TempDir(), "ledger.db"))
	err := ledger.Open(revocation.Options{Logger: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	table := New(ledger, new(alarm.Set))
	tb.Cleanup(func() {
		if err := table.Stop(context.Background()); err != nil {
			tb.Error(err)
		}
		if err := ledger.Close(); err != nil {
			tb.Error(err)
		}
	})
	table.Apply(&Settings{Pairs: map[Pair]Source{api: {Rules: &Rules{All: rule}}}, Logger: quiet})
	return table.Gate(GateOptions{AEF: api.AEF, APIs: []string{api.API}})
}

// TestAllocations: a call within what is reserved allocates nothing, nor does one
// that is refused.
func TestAllocations(t *testing.T) {
	for name, tt := range map[string]struct {
		rule *Rule
		want enforce.Reason
	}{
		"nothing limited":  {&Rule{}, enforce.Allowed},
		"all limits":       {everything(), enforce.Allowed},
		"over the rate":    {&Rule{PerSecond: number(0)}, enforce.OverRate},
		"out of the range": {&Rule{Ranges: []Range{{Stop: time.Unix(1, 0)}}}, enforce.OutsideTimeRange},
		"over the total":   {&Rule{Total: number(0)}, enforce.OverLimit},
	} {
		t.Run(name, func(t *testing.T) {
			gate := ledgerTable(t, tt.rule)
			grant := gate.Grant("i")
			ctx, now := t.Context(), time.Now()
			for range 3 {
				gate.Admit(ctx, grant, now, true)
			}
			<-grant.one.begin(func(*flight) {}).done  // what is being noted
			got := testing.AllocsPerRun(300, func() { // within one block
				if reason := gate.Admit(ctx, grant, now, true); reason != tt.want {
					t.Fatalf("got %v; want %v", reason, tt.want)
				}
			})
			if got != 0 {
				t.Errorf("got %v allocations; want 0", got)
			}
		})
	}
}

// BenchmarkAdmit is what a policy adds to a call whose verdict is cached.
func BenchmarkAdmit(b *testing.B) {
	for _, bench := range []struct {
		name string
		rule *Rule
	}{
		{"none", &Rule{}},
		{"range", &Rule{Ranges: everything().Ranges}},
		{"rate", &Rule{PerSecond: everything().PerSecond}},
		{"total", &Rule{Total: everything().Total}},
		{"all", everything()},
	} {
		for _, invokers := range []int{1, 10_000} {
			b.Run(fmt.Sprintf("%s/invokers=%d", bench.name, invokers), func(b *testing.B) {
				gate := ledgerTable(b, bench.rule)
				grants := grantsOf(gate, invokers)
				ctx := b.Context()
				now := time.Now()
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					now = now.Add(time.Microsecond)
					gate.Admit(ctx, grants[i%invokers], now, true)
				}
			})
		}
	}
	b.Run("all/parallel/invokers=10000", func(b *testing.B) {
		gate := ledgerTable(b, everything())
		grants := grantsOf(gate, 10_000)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			ctx, now := b.Context(), time.Now()
			for i := 0; pb.Next(); i++ {
				now = now.Add(time.Microsecond)
				gate.Admit(ctx, grants[i%len(grants)], now, true)
			}
		})
	})
	b.Run("lookup/invokers=10000", func(b *testing.B) {
		gate := ledgerTable(b, everything())
		names := make([]string, 10_000)
		for i := range names {
			names[i] = fmt.Sprintf("invoker-%d", i)
		}
		grantsOf(gate, len(names))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			gate.Grant(names[i%len(names)])
		}
	})
}

// grantsOf makes grants that have had their first call, which waits for the disk.
func grantsOf(gate *Gate, invokers int) []*Grant {
	grants := make([]*Grant, invokers)
	var all errgroup.Group
	all.SetLimit(512)
	for i := range grants {
		all.Go(func() error {
			grants[i] = gate.Grant(fmt.Sprintf("invoker-%d", i))
			gate.Admit(context.Background(), grants[i], time.Now(), true)
			return nil
		})
	}
	_ = all.Wait()
	return grants
}

// TestAccountFillsCacheLines: what every call needs stands in the first of them.
func TestAccountFillsCacheLines(t *testing.T) {
	var a account
	if size := unsafe.Sizeof(a); size != 256 && bits.UintSize == 64 {
		t.Errorf("got %d bytes; want 256: change accountPadding", size)
	}
	if hot := unsafe.Offsetof(a.pair); hot > 192 {
		t.Errorf("got %d bytes before what a call does not need; want three cache lines", hot)
	}
}
