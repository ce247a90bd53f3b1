// Package wire is the OpenAI wire as the sidecar meets it: a typed view of a
// request beside its raw bytes, a reader of answers as they pass, and the
// meaning of rate-limit headers and refusals. It is the only package that
// imports an OpenAI SDK.
//
// # One table
//
// formats (format.go) has a row for each endpoint: its path, the parser of its
// requests, the format of its answers, and how it is billed. What has no row
// passes without being read.
//
// # Read typed, write raw
//
// A gateway that decodes a request into a struct and encodes the struct again
// has changed it. The SDK's own structs drop stream, vendor fields and whole
// inputs; TestDecode_WhatTheSDKLoses lists them. So bytes are never rewritten
// here. Decode walks the top level of a body once and validates all of it. Small
// fields are decoded into the SDK's struct, and the view of the request is read
// from that. Heavy fields stay spans of the body. A field of the wrong type is
// unknown in the view and goes up as it came, because the upstream judges
// requests.
//
// There are two edits, both by offset. Splice puts include_usage into a
// stream whose client did not ask for usage. A Watcher takes the one chunk that
// this causes out again.
//
// We act on a few fields and the upstream's parser acts on the same bytes, so
// the two must read the same request. Parsers differ on members named twice: the
// first wins, or the last, or case is ignored. So Decode refuses a body that
// names one of our fields twice, in whatever spelling.
//
// # Look at the bytes
//
// What an answer is, its first bytes say: events, one JSON value, or something that
// we do not understand (shape.go). That passes as it comes, and says nothing. Labels
// are wrong too often. Blanks and comments before the answer are signs of life.
//
// A stream that ends cleanly without its terminal event, without a finish reason and
// without an error was truncated, if it was of our format at all.
//
// # Hold back the end, and nothing else
//
// When a client has its whole answer, the ledger must have its record. A Watcher
// therefore keeps the end of an answer, without which no client takes it for
// complete. Everything before the end goes as it comes. In a stream the end is
// the usage chunk without choices, the last event of Responses, or [DONE].
// Upstreams that repeat a running usage in every chunk do not slow a stream down.
//
// In events that cannot be the end, usage is found by a search for one word. In
// those that may be, a tracker reads the passing bytes in constant memory. Usage
// is exact or it is absent: an object that does not hold plain counts is no
// usage, and zero is a count.
//
// # Say what a refusal means
//
// ParseRateLimit and ParseThrottle turn the dialects of providers into an
// llm.Signal. It says what is left of which limit, how long to wait, and whose
// dialect it was. They never guess: what makes no sense is absent. Whether waiting cures
// a refusal is read from its words (incurable.go), and what is not understood is said to
// be Unclear.
//
// # Reading order
//
// format.go first. For requests: request.go, parsers.go, fields.go, splice.go.
// For answers: watch.go, shape.go, answer.go, stream.go, event.go, long.go,
// inside.go. Underneath are walk.go and tracker.go. ratelimit.go and policy.go
// (levels), throttle.go, errorbody.go, period.go, incurable.go, said.go
// (refusals) and dialect.go stand alone.
package wire
