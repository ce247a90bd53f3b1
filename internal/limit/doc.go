// Package limit admits requests to a provider: fairly, and at the rate that the
// provider allows, neither above it nor below.
//
// # The model
//
// A request is expected to use something (Demand). The profile of its limit
// group turns that into a charge, in the unit the provider books in. Acquire
// blocks until the charge fits every limit at once (requests, tokens, input,
// output, per minute and per day, and places in flight; the group's own and the
// caps over all groups) and then takes it from all of them, or from none. The
// answer's exact usage corrects it (Lease.Settle).
//
// The package is a pure core, a state machine (state, event, now) → decisions
// without clock, lock or channel, in a thin shell with one mutex and one timer.
// There is no goroutine per waiter and no tick: whoever changes the state pumps.
//
// Read tree.go for fairness, bucket.go and meters.go for limits, control.go for
// what the provider's answers teach, gate.go for what follows when it refuses
// everything; core.go, arrive.go, serve.go and settle.go
// for how they meet in the life of a request; limiter.go and lease.go for the
// shell; budget.go for limits that several sidecars share.
//
// # Fairness
//
// group → band → client → session → first in, first out. Clients share a band
// and sessions share a client by start-time fair queueing (Goyal, Vin, Cheng
// 1997): the least start tag S goes, the clock v becomes S, and S grows by
// cost/weight. The cost is the dominant share of the charge (Ghodsi et al.
// 2012): max over limits of amount/rate, so that requests count where requests
// bind and tokens where tokens do. For two backlogged flows f and g what they
// got, per weight, never differs by more than c_f/w_f + c_g/w_g, whatever the
// provider's speed. The cost is a guess; Settle moves the tag by the error, as
// Kubernetes' API priority and fairness does.
//
// The head is strict: what fits does not overtake it. A limit that refills loses
// nothing by waiting, and large requests do not starve. Bands are served in
// order, but each waiting lower band is owed a twentieth of what goes above it.
//
// A model has no group before its first good answer. Until then it shares the
// nursery of its pattern, so an invented name buys neither queue nor bucket.
//
// # When the estimate was wrong
//
// Each profile reserves and settles as its provider does: openai charges at
// admission and never settles, azure too but per fixed minute, anthropic
// reserves the cap and settles to the usage, postpaid books the usage. Under
// auto, shadow ledgers book each way side by side, and the one that explains the
// remaining-headers best is believed. One header that none of them explains, as
// after the machine was suspended, is a surprise and no evidence.
//
// A header tells the level R of when its request was sent. With the ledger of
// net charges A(t), the level now is
//
//	L̂ = min(C, R + r·(now − sent)) − (A(now) − A(sent))
//
// which is applied at once when it is lower, by a fifth of the way when higher.
// Without the ledger's term requests in flight would look like free capacity and
// the loop would oscillate. What goes away and is not in our ledger is use by
// others; it is averaged over 20 s and taken off the rate, and it fades when no
// header confirms it.
//
// A band of a quarter second's refill is kept back (the guard): requests
// overtake each other on the way, and at the very edge each such pair is a 429.
// A 429 pauses its group as told, keeps its charge, and cuts the rate once per
// epoch, as TCP does; the cut regains with time, not with answers.
//
// # Half-open
//
// A pause that a single 429 asked for ends at full speed: its bucket lets go what
// fits, and to start slowly each time would cost the use of fast limits. A storm
// is different, be it of 429s, of 503s with a hint, or with nobody listening:
// when of the attempts sent since a first refusal half are refused (three at
// least), or when eight in a row meet a provider that pauses nobody, the group's
// gate shuts. After the pause one probe goes. Each answer lets one more be on the
// way than before (1, 2, 4, ... per round trip, by the answers' headers), until
// nobody waits behind the gate or 128 may go. A probe that is refused starts the
// pause anew: as long as told, or growing to 5 s (30 s after 429s), with jitter.
//
// A provider that does not stream is silent for its whole service time. Refusals
// are quick: a probe that has heard nothing for four times as long as they took,
// and a second at least, has been taken, and what may go doubles.
//
// What a probe meets is not its own fault. Its refusal is no attempt of the
// request's, and it lets others go first the next time.
//
// # Bounds
//
// In any span of time T a bucket lets through at most C + r·T, a sliding one at
// most C per period whatever the phase of the provider's own; a request larger
// than C waits for a full bucket and leaves a debt. The queue is bounded by
// count, tokens and bytes; when it is full the longest session of the longest
// client of the lowest band gives way, so that a flood displaces itself.
package limit
