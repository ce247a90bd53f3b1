// Package limit admits requests to a provider: fairly, and at the rate that the
// provider allows, neither above it nor below.
//
// # Two halves and a shell
//
// Package queue knows who waits and who of them is next. It knows requests by what
// they are expected to use (llm.Demand), and no limit. Package lane knows one limit
// at one place: what a request is charged there, when it may go, and what came of it.
// A lane takes of a source, which owns the level: this process's clock, or what a
// fleet of sidecars has granted.
//
// This package is the shell around them. For each model that clients ask for it has a
// queue, and the lanes that may serve it. A request is taken from its lane and from the
// caps over all models at once, which are a lane too, or from none. Models that the
// provider counts together share a lane.
//
// The shell has a pure core, a state machine (state, event, now) → decisions without
// clock, lock or channel, in a [Limiter] with one mutex and one timer. There is no
// goroutine per waiter and no tick: whoever changes the state pumps.
//
// Control calls, which cost nothing, go before all queues: see control.go.
//
// Read limiter.go and lease.go for what callers see, core.go and model.go for the
// state, enter.go for who comes, serve.go for who goes next, settle.go for what follows.
//
// # Names that have never answered
//
// A name costs its inventor nothing, so it must buy nothing. Until a model has
// answered well it is in the nursery of its pattern. It has a queue, a pause and a
// breaker of its own, but all of a nursery take of one source, and their clients are in
// one contest (see package queue, and nursery.go). The first good answer gives the model a part of the
// source, with the levels that it has.
//
// What a model is refused belongs to it alone, new or not: no pause, day's limit, breaker or
// caution of one model changes the level of a source that others take of, nor of the caps.
// Beyond maxNew names that are busy at once, names share a queue, the crowd. It has no
// pause: there a refusal holds back the session that met it.
//
// # Bounds
//
// The queue is bounded by count, tokens and bytes. If it is full, the longest session
// of the longest client of the lowest band gives way, so that a flood displaces itself.
// Models that have answered, names that have not, and sessions are bounded in number.
package limit
