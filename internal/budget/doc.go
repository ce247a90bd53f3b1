// Package budget holds requests to what their sessions may use in an hour, a day, a month, or ever.
//
// # Reservation
//
// Whoever looks at a budget first and books afterwards can be overtaken: a hundred requests at once all see
// the same remainder. So a request takes its estimate out of the budget before it is sent
// (Reserve), and puts the exact amount in its place when that is known (Settle), or gives it back when
// nothing was sent (Release). A budget is used up when what has been settled reaches its limit: estimates
// alone never refuse a request. One that does not fit beside what others have reserved
// waits until they settle, in order of arrival; one that does not fit at all goes alone.
//
// # The bound
//
// In one process the sum of settled amounts exceeds a limit by no more than
//
//   - what the requests under way when the limit was reached cost beyond their reservations, or
//   - if the last one went alone, what it cost beyond the remainder.
//
// With reservations that are never too small, that is: not at all, but for one request. Several processes
// that share a store see each other's use when they read it again (Config.Refresh); in between each
// may hand out the remainder that it saw, so N processes exceed the limit by up to N-1 times that.
//
// # What it rests on
//
// The package keeps sums in memory and nothing else: what was used before is loaded when a budget is first
// drawn on in its period, by a function that reads the ledger. Periods are those of UTC; a reservation
// counts in the period in which it was made, whenever it is settled.
package budget
