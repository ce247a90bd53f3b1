package wire

import (
	"net/url"
	"strings"
)

// Endpoint names a part of the API that we know. Everything else is Other: it
// passes without being read.
type Endpoint uint8

// The endpoints, as rows of formats.
const (
	Other Endpoint = iota
	Chat
	Completions
	Responses
	Embeddings
	numEndpoints
)

// A format is all that there is to know of one endpoint. To add an endpoint, add
// a row to formats and a parser to parsers.go. Answers of a new kind need an
// answerFormat as well (answer.go).
type format struct {
	method, path string // path is below the API's base; it is the route's name as well

	// parse reads a request's body into the view. Which tokens the prompt is
	// estimated from is the parser's matter: it fills the spans. nil = the body
	// passes unread.
	parse     func(r *Request) (duplicate string, ok bool)
	asksUsage bool          // a stream tells its usage only if stream_options asks for it
	answer    *answerFormat // nil = the answer passes unread, and its usage stays unknown
	generates bool          // an answer has completion tokens
	billing   billing
}

// billing says what a request is charged by.
type billing uint8

const (
	free billing = iota
	byTokens
)

var formats = [numEndpoints]format{
	Other:       {path: "other"},
	Chat:        {method: "POST", path: "chat/completions", parse: chatParser.parse, asksUsage: true, answer: &chunks, generates: true, billing: byTokens},
	Completions: {method: "POST", path: "completions", parse: completionParser.parse, asksUsage: true, answer: &chunks, generates: true, billing: byTokens},
	Responses:   {method: "POST", path: "responses", parse: responseParser.parse, answer: &typedEvents, generates: true, billing: byTokens},
	Embeddings:  {method: "POST", path: "embeddings", parse: embeddingParser.parse, answer: &chunks, billing: byTokens},
}

// EndpointOf says which endpoint a request addresses. The path is relative to
// the API's base, as it came. A leading slash and escapes are ignored, as servers
// do that: a way of writing must not lead past the ledger. Anything else must
// match exactly. A GET of responses/{id} or of chat/completions lists stored
// answers and costs nothing, so it is Other.
func EndpointOf(method, path string) Endpoint {
	if plain, err := url.PathUnescape(path); err == nil {
		path = plain
	}
	path = strings.TrimPrefix(path, "/")
	for i, f := range formats {
		if f.method == method && f.path == path {
			return Endpoint(i)
		}
	}
	return Other
}

func (e Endpoint) format() *format { return &formats[e] }

// String returns the endpoint's path below the API's base, "other" for Other.
func (e Endpoint) String() string { return e.format().path }

// Decoded reports whether a request's body is held whole and read by Decode, so
// that its model is known and its tokens are estimated.
func (e Endpoint) Decoded() bool { return e.format().parse != nil }

// Generates reports whether an answer has completion tokens.
func (e Endpoint) Generates() bool { return e.format().generates }

// TellsUsage reports whether an answer says what it cost: a Watcher finds it.
func (e Endpoint) TellsUsage() bool { return e.format().answer != nil }

// Billed reports whether requests cost money: they draw on budgets.
func (e Endpoint) Billed() bool { return e.format().billing != free }
