// Package proxy takes a request for the API, waits for its place, sends it, and
// passes the answer on. One row of the ledger is left of it.
//
// proxy.go holds the way of one request, in one function marked START HERE. The other
// files hold its steps: body.go reads what the client sends, budget.go and queue.go
// wait, relay.go and tunnel.go pass the answer on. The leaves do not know one
// another: mapping.go and queue.go put the words of one into those of the other.
package proxy
