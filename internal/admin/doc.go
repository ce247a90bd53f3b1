// Package admin serves the operators' routes: sessions and their requests, usage,
// the queue, health, and the metrics' exposition.
//
// A new route is a line in Routes and a handler. Package client has the same JSON
// types for Go callers; a test in examples holds the two equal.
package admin
