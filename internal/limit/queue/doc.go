// Package queue orders the requests that wait for a model: who is next, whatever the
// limits are. It has no clock, no lock and no notion of a provider; whoever uses it
// holds one lock over all queues of a [Roster].
//
// # Fairness
//
// contest → band → client → session → first in, first out. Clients share a band and
// sessions share a client by start-time fair queueing (Goyal, Vin, Cheng 1997): the
// least start tag S goes, the clock v becomes S, and S grows by cost/weight. The cost is
// the caller's: the dominant share of what the request is charged (Ghodsi et al. 2012),
// so that requests count where requests bind and tokens where tokens do. For two
// backlogged flows f and g what they got, per weight, never differs by more than
// c_f/w_f + c_g/w_g, whatever the provider's speed. The cost is a guess; [Queue.Correct]
// moves the tag by the error, as Kubernetes' API priority and fairness does.
//
// Bands are served in order, but each waiting lower band is owed a twentieth of what
// goes above it.
//
// Queues that draw on one limit are in one [Contest]: there a client has one tag over
// all of them, so that it gets no more by asking under several names.
//
// For a cap over all models there is one order more, the common one: see common.go.
//
// # Holding back
//
// The head is strict: what fits does not overtake it. Two things step aside. A session
// whose request was refused comes back at a time ([Roster.Hold]); a client for whom
// nothing is there just now is held back alone, and the next client's head is asked.
package queue
