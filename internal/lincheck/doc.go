// Package lincheck checks histories of calls and changes against the promise
// "no late call" (linearizability, reduced to what a deny and a lift mean).
//
// # What is recorded
//
// Every operation takes a stamp from one [Clock] before it begins and after it
// ended. A change ([Change]) is a deny or a lift of one pair, a call ([Call]) is
// a decision about it.
//
// # What must be true
//
//   - Late: a call must not pass if it began after a deny was acknowledged,
//     unless a lift that may stand behind that deny had begun before the call
//     ended.
//   - Stuck: a call must not be refused if every deny that began before the call
//     ended had ended before a lift began that was acknowledged before the call
//     began.
//
// A call that stays in flight ([Stream]) counts as two of these ([CallsOf]): it
// passed when it was let in, and at the end of the history it has passed again if it
// is still open, or was refused if it was ended.
//
// A deny that was answered with an error counts as a deny for both: its outcome
// is "blocks, and may not survive a restart". A lift that was answered with an
// error counts as none.
//
// The package is for tests, and knows nothing of what it checks.
package lincheck
