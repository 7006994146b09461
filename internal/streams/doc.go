// Package streams ends calls in flight when they are no longer allowed: a block
// that leaves an open WebSocket or event stream running is no block.
//
// # Guarantees
//
// No gap: a call registers first ([Registry.Open]) and is then judged again, and
// a deny can be found and has raised the epoch before it looks for calls
// ([Registry.Changed]). So a call is either found by the deny or sees it. Once a
// deny has been acknowledged, every call in flight that it covers has been handed
// to a worker, and is ended after its grace.
//
// Only a deny ends: calls are judged by the code that decides new ones. A lift
// ends nothing, and a call that was lifted within its grace goes on. Calls of
// other API invokers, and of the same one to other APIs, stay, also on a shared
// HTTP/2 connection.
//
// The path of a call takes no lock that all calls share: calls are kept in lists
// by API invoker, several for each, and a call takes the lock of one of them
// twice. Changed looks whether anything is open and returns; ending is done by a
// few workers, which exist while there is work.
//
// # How a call is ended
//
// Ending a call cancels the request's context, which cancels what was asked
// upstream; makes reads and writes under way fail, by deadlines in the past; over
// HTTP/2 that resets the stream; over HTTP/1.x it closes the connection, also one
// that a handler has taken over (WebSocket). From then on [Stream.Write] fails, and
// the handler's caller must panic with [net/http.ErrAbortHandler] so that what was
// sent does not look complete.
//
// What that cannot reach: bytes that the operating system has taken, and a handler
// that waits for something else than the request, the response or the context. Over
// HTTP/3 the stream is reset only when the handler returns.
//
// The package imports net/http and no Caddy.
package streams
