// Package llm has the words that all other packages share: what a request is
// expected to use, what it did use, which limits there are, and what a provider
// says of them. A value of this package goes unchanged from the wire to the
// limiter, the budget, the price and the ledger's row, so no package has to
// translate it.
//
// Every other leaf package may import llm, and no other package of ours. So llm
// imports nothing but the standard library, and holds no policy.
package llm
