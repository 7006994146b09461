package autotrigger

// Outcome is how a request ended. The set is closed: it labels a metric.
type Outcome uint8

const (
	// Accepted means the trigger is on its way to the ledger.
	Accepted Outcome = iota
	// Already means that the pair is denied, or about to be.
	Already
	// BudgetSpent means that the budget of this minute is used up.
	BudgetSpent
	// Unbound means that nothing proves that the caller is the API invoker
	// whom its token names.
	Unbound
	// NoInvoker means that the call has no API invoker that was let in.
	NoInvoker
	// DryRun means that a trigger would have been accepted.
	DryRun
	// QueueFull means that too many triggers wait for the ledger.
	QueueFull
	// Failed means that the ledger did not take it, or that it is closed. An
	// accepted request that failed is counted as both.
	Failed
	outcomes // how many there are
)

var outcomeNames = [outcomes]string{
	Accepted: "accepted", Already: "already", BudgetSpent: "budget_spent", Unbound: "unbound",
	NoInvoker: "no_invoker", DryRun: "dry_run", QueueFull: "queue_full", Failed: "failed",
}

// String returns the name that metrics and logs use.
func (o Outcome) String() string {
	if o < outcomes {
		return outcomeNames[o]
	}
	return "unknown"
}

// Outcomes returns every outcome there can be.
func Outcomes() []Outcome {
	all := make([]Outcome, outcomes)
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}
