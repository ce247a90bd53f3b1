// Package provider simulates an OpenAI-compatible provider: its routes, its
// rate limits, its error texts, its streams and its failures.
//
// It exists so that tests, benchmarks and the demo need neither a key nor a
// network, and so that they have a truth to compare with: the [Server] keeps
// its own ledger of what it received, admitted, generated and delivered, made
// on the other side of the wire from the program under test.
//
// # Limits
//
// An [Account] decides who is admitted. It is a pure accountant: time is an
// argument, there is no clock, lock or goroutine in it, so that a simulator in
// virtual time and a real server share one implementation. Providers differ in
// what they charge and when, and the difference decides whether a client that
// "knows the limit" meets a 429; hence four variants:
//
//	Continuous  OpenAI: a bucket of one minute's tokens, refilled continuously, charged
//	            max(max_tokens, characters/4) at admission and never given back.
//	Window      Azure: a counter of estimates (characters/4 + max_tokens) that resets each
//	            minute, and requests counted in slices of a few seconds.
//	Reserve     Bedrock, Anthropic: prompt + max_tokens reserved at admission, corrected to
//	            the real usage at the end.
//	PostPaid    self-hosted gateways, Groq: real usage charged at the end; anyone is
//	            admitted while the level is above zero.
//
// That OpenAI's tokens are a continuous bucket of capacity TPM follows from its
// published error texts: "Please try again in 644ms" with Limit 30000, Used
// 29937 and Requested 385 is (29937+385-30000)/(30000/60 s) to the millisecond.
// TestAccount_PublishedExamples holds the model against three of them.
//
// # Usage
//
// Token counts are a documented function of the request, so that a test can
// compute what it should be told: [CountTokens] counts any text,
// [PromptTokens] a request body, and [Server.Expect] both sides of an answer.
// The generated text consists of words that count one token each, so the text
// itself proves the completion count. Prompts steer the answer with a few
// phrases, read from the last 4 KiB of the prompt's text:
//
//	say 40 words        the answer has 40 tokens (before max_tokens cuts it)
//	think 20 tokens     20 reasoning tokens, billed with the completion, not shown
//	cached 30 tokens    30 of the prompt's tokens are reported as cached
//	call weather        a call of the declared tool named weather
//
// Without them the length is drawn by a hash of seed, model and prompt: not of
// the raw body, so that a proxy which splices in stream_options gets the same
// answer as a client that did not pass through it.
//
// # Faults
//
// A [Fault] replaces or damages one answer: statuses, 429s of every kind,
// connections cut or reset at a byte, stalls, missing usage, garbage.
// [Server.Script] queues them for the next requests in order of arrival.
// [FaultProxy] does to the TCP stream what a handler cannot.
//
// What the package does not claim: these are models of documents and error
// texts, no live service was measured. A request dearer than the bucket is
// refused for ever, as OpenAI does.
package provider
