// Package tokens says what a request will cost before it is sent, and learns from
// what it did cost.
//
// The limiter must know a request's tokens before the upstream has counted them.
// An exact answer would need every provider's vocabulary, megabytes of memory and
// a hundred times the time, and would still be a guess for the next model. So this
// package guesses well, and lets the exact usage of each answer correct the rest.
//
// # Guess
//
// A byte-pair tokenizer cuts text where it is unusual: within a frequent word
// seldom, inside a hash at every second byte, at a change of script always. How
// likely a token begins at a character is told well enough by the character's
// class and a little of what came before it. Hence an automaton of some forty
// states over some thirty classes, one weight for each step, and one for each pair
// of small letters; text costs the sum (text.go, class.go). It runs over the raw
// JSON where it stands, escapes and all: one table look-up a byte, nothing decoded
// or allocated. The weights in weights.go are not chosen but fitted to o200k_base
// by the program in fit, from the corpus beside it.
//
// # Structure
//
// request.go walks the raw spans of a request: text is weighed, framing added,
// token arrays counted. Binary is never text: a megabyte of base64 would weigh
// 680,000 tokens where an image costs 765. Its size is read from the picture's
// header, its price from the model's table (image.go, media.go). A walk is linear
// in its bytes, bounded in depth, and has no opinion on validity: what is no JSON
// weighs little, and the upstream judges it.
//
// # Correction
//
// Other vocabularies differ from o200k_base by a factor, most beyond ASCII. Each
// model has two ratios, for ASCII and for the rest, fitted to the usages seen; each
// session has a factor on top, because sessions differ in what they talk about
// (calibrate.go). All are drawn toward the next wider guess until enough was seen:
// a session to its model, a model to its family. Usage that no tokenizer could
// produce is bounded, and answers whose prompt was partly out of sight teach
// nothing about text.
//
// How each provider charges what is estimated here is package limit's affair.
package tokens
