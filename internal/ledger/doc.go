// Package ledger keeps what was used: one record per request that was sent upstream, exact
// totals per session, and rollups per hour and day.
package ledger
