// Package wire is the OpenAI wire as the sidecar meets it: a typed view of a
// request beside its raw bytes, a reader of answers as they pass, and the
// meaning of rate-limit headers and refusals. It is the only package that
// imports an OpenAI SDK.
//
// # Read typed, write raw
//
// A gateway that decodes a request into a struct and encodes the struct again
// has changed it: the SDK's own structs drop stream, vendor fields, whole inputs
// (TestDecode_WhatTheSDKLoses lists them). So bytes are never rewritten here.
// Decode walks the top level of a body once, validates all of it, and keeps a
// view: small fields in the SDK's struct, heavy ones as spans that are decoded
// only for those who ask. A field of the wrong type is unknown in the view and
// goes up as it came; the upstream is the judge of requests, not we.
//
// There are two edits, both by offset: Upstream
// splices include_usage into a stream whose client did not ask for usage, and a
// Watcher takes the one chunk out again that this causes.
//
// Since we act on a few fields and the upstream's parser on the same bytes, the
// two must read the same request. Parsers differ on members named twice (the
// first wins, the last wins, case is ignored), so Decode refuses a body that
// names a field twice that we act on, in whatever spelling.
//
// # Hold back the end, and nothing else
//
// When a client has its whole answer, the ledger must have its record. A Watcher
// therefore keeps the end of an answer, the part without which no client takes
// it for complete, and lets everything before it go as it comes. In a stream the
// end is the usage chunk without choices, the last event of Responses, or [DONE].
// Upstreams that repeat a running usage in every chunk do not slow a stream down.
//
// Usage is found by a search for one word in events that cannot be the end, and
// by a tracker, a reader of passing bytes in constant memory, in those that may
// be. It is exact or it is absent: an object that does not hold plain counts is
// no usage, and zero is a count.
//
// # Say what a refusal means
//
// ParseRateLimit and ParseThrottle turn the dialects of providers into numbers:
// what is left of which limit, how long to wait, and whether waiting helps at
// all, and whose dialect it is (dialect.go). They never guess: what makes no
// sense is absent.
//
// # Reading order
//
// request.go with fields.go and splice.go; watch.go, then stream.go, event.go and long.go;
// walk.go and tracker.go underneath; ratelimit.go, throttle.go and dialect.go stand alone.
package wire
