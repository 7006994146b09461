package coreclient

import (
	"net/http"
	"time"
)

// Observation is how one call of the core went, for metrics.
type Observation struct {
	// Operation is one of [Operations].
	Operation string
	// Outcome is one of [Outcomes].
	Outcome string
	// Took is the time until the answer was read, redirects included.
	Took time.Duration
	// Date is the core's clock as its answer says; zero if it does not. It is
	// cut to whole seconds, and as old as the answer was on its way.
	Date time.Time
}

// The operations, and what "other" stands for: one without a name of its own.
var operations = map[string]string{
	opContext:     "read_context",
	opRevoke:      "revoke",
	opSubscribe:   "subscribe",
	opRenew:       "renew_subscription",
	opUnsubscribe: "delete_subscription",
}

const otherOperation = "other"

// Outcomes are all that an Observation can have: the class of the status, or
// that none came.
var Outcomes = []string{"2xx", "3xx", "4xx", "5xx", noAnswer, otherOperation}

const noAnswer = "no_answer"

// Operations returns all that an Observation can have.
func Operations() []string {
	all := []string{otherOperation}
	for _, name := range operations {
		all = append(all, name)
	}
	return all
}

func observed(r request, status int, header http.Header, took time.Duration) Observation {
	o := Observation{Operation: operations[r.op], Outcome: noAnswer, Took: took}
	if o.Operation == "" {
		o.Operation = otherOperation
	}
	if status > 0 {
		o.Outcome = otherOperation
	}
	if class := status / 100; class >= 2 && class <= 5 {
		o.Outcome = Outcomes[class-2]
	}
	date, err := http.ParseTime(header.Get("Date"))
	if err == nil {
		o.Date = date
	}
	return o
}
