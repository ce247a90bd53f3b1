// Package proxy takes a request for the API, waits for its place, sends it, and
// passes the answer on. One row of the ledger is left of it.
//
// proxy.go holds the way of one request, in one function marked START HERE. An
// exchange is what is known on that way. Three of its parts have files of their own:
//
//   - request.go: what was asked, and until when it may wait
//   - attempt.go: the tries at the provider, and which answers are not handed on
//   - answer.go: what the client gets, heartbeats and interim answers included
//
// record.go makes the row of the three. body.go, budget.go, queue.go, relay.go and
// tunnel.go are the steps between; reach.go tells of a provider that cannot be reached;
// leave.go says how long an answer is read on for a client that has left. The leaves do
// not know one another: mapping.go and queue.go put the words of one into those of
// another, refusal.go into the client's.
package proxy
