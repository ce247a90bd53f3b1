// Package lane knows one limit at one place: what a provider lets through for the
// models that it counts together, and how near to that it is.
//
// A [Lane] has the ways of one provider: how it charges (profile.go), how it refuses
// and for how long it then wants to be left alone (refuse.go, breaker.go), and what its
// answers teach (learn.go, shadow.go). Its [Source] has the amounts. The [Clock] is the
// source of a process that is alone: bucket.go and window.go book, sync.go compares with
// the provider, belief.go says whether its words are worth it.
//
// # If the estimate was wrong
//
// Each profile reserves and settles as its provider does: openai charges at admission
// and never settles, azure too but per fixed minute, anthropic reserves the cap and
// settles to the usage, postpaid books the usage. Under auto the dialect of an answer
// shows Azure and Anthropic. For all others shadow ledgers book each way side by side,
// and the one that explains the remaining-headers best is believed; they also refute a
// dialect that lied. One header that none of them explains, as after the machine was
// suspended, is a surprise and no evidence.
//
// A header tells the level R of when its request was sent. With the ledger of
// net charges A(t), the level now is
//
//	L̂ = min(C, R + r·(now − sent)) − (A(now) − A(sent))
//
// which is applied at once if it is lower, by a fifth of the way if higher. Without the
// ledger's term requests in flight would look like free capacity and the loop would
// oscillate. What goes away and is not in our ledger is use by others; it is averaged
// over 20 s and taken off the rate, and it fades if no header confirms it.
//
// A band of a quarter second's refill is kept back (the guard): requests overtake each
// other on the way, and at the very edge each such pair is a 429. A 429 pauses its lane
// as told, keeps its charge, and cuts the rate once per epoch, as TCP does; the cut
// regains with time, not with answers.
//
// Headers may speak of something else than they are named after. Their words are held
// against each other and, now and then, against the provider (belief.go). A limit whose
// headers name no period gets it by their resets (pace.go).
//
// # Long over, or not understood
//
// A limit that is used up for longer than anybody waits, a day's above all, holds nobody
// in the queue: who comes is refused with the time of its end, save a probe now and then
// (dry.go). A 429 whose words nobody understands is tried five times over 75 seconds, and
// is then for its client (puzzle.go). Seventy-five, because a limit per minute that
// others use up lets somebody through within a minute; and only an answer ends the row,
// because a refusal in other words proves nothing. What is understood as a rate, by a
// word, a period or a hint, is never given up so.
//
// # Half-open
//
// A pause that a single 429 asked for ends at full speed: its bucket lets go what fits,
// and to start slowly each time would cost the use of fast limits. A storm is different,
// be it of 429s, of 503s with a hint, or with nobody listening: if of the attempts sent
// since a first refusal half are refused (three at least), or if eight in a row meet a
// provider that pauses nobody, the lane's breaker trips. After the pause one probe goes.
// Each answer lets one more be on the way than before (1, 2, 4, ... per round trip, by
// the answers' headers), until nobody waits behind the breaker or 128 may go. A probe
// that is refused starts the pause anew: as long as told, or growing to 5 s (30 s after
// 429s), with jitter.
//
// A provider that does not stream is silent for its whole service time. Refusals are
// quick: a probe that has heard nothing for four times as long as they took, and a
// second at least, has been taken, and what may go doubles.
//
// What a probe meets is not its own fault. Its refusal is no attempt of the request's,
// and it lets others go first the next time.
//
// # Bounds
//
// In any span of time T a bucket lets through at most C + r·T, a sliding one at most C
// per period whatever the phase of the provider's own. A request larger than C waits for
// a full bucket and leaves a debt.
package lane
