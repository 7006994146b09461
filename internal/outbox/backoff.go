package outbox

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	firstDelay = time.Second
	maxDelay   = 5 * time.Minute
	// maxRetryAfter bounds how long the core can put us off.
	maxRetryAfter = time.Hour
)

// backoffDelay is how long to wait after so many attempts without a decision:
// exponential with jitter, at least what the core asked for.
func backoffDelay(attempts int, retryAfter time.Duration) time.Duration {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = firstDelay
	b.MaxInterval = maxDelay
	b.Multiplier = 2
	b.Reset()
	delay := b.NextBackOff()
	for range min(attempts, 12) {
		delay = b.NextBackOff()
	}
	return max(delay, min(retryAfter, maxRetryAfter))
}
