// Package middleware carries a session from Go code to llm-queue-proxy, the
// sidecar that queues OpenAI-compatible requests fairly and books their tokens
// per session. It needs the standard library only.
//
// A session is put into a context once, by [WithSession] or, in a web service,
// by [Handler]. From there it reaches the sidecar as a request header, on every
// call and on every retry of that call, through whichever of three shapes an
// SDK takes:
//
//	const sidecar = "http://127.0.0.1:8080/v1"
//
//	// openai-go, major versions 1, 2 and 3
//	openai.NewClient(option.WithBaseURL(sidecar), option.WithMiddleware(middleware.New(sidecar)))
//
//	// go-openai
//	config.BaseURL, config.HTTPClient = sidecar, middleware.Client(sidecar, nil)
//
//	// anything on net/http
//	http.Client{Transport: middleware.Transport(sidecar, nil)}
//
// # What is sent, and to whom
//
// The headers of this package go to the origin (scheme, host and port) of the
// sidecar URL and to no other: the same client may talk to other hosts and
// tells them nothing. A header that the request already carries is left alone.
//
// [Transport] and [Client] also take the headers off again when the sidecar's
// answer redirects to another origin. [New] cannot, because it runs above the
// http.Client, which copies headers along redirects by itself. Where an upstream
// redirects to third parties, hand the SDK a [Client] (openai-go takes one by
// option.WithHTTPClient) instead of, or beside, the function.
//
// # Mistakes are told early
//
// A session id that the sidecar would refuse is refused before anything is sent
// ([ErrInvalidSession]). A base URL that holds "/v1" twice, or not at all, would
// only earn a puzzling 404 from the provider; it is named too ([ErrBaseURL]), and so
// is "https" where the sidecar speaks http.
// And where nothing listens, the error says at which address and what to start
// ([ErrUnreachable]). Faults of construction are reported by every request, so
// that New, Transport and Client fit into one line; see [Check] to learn of them
// at start.
package middleware
