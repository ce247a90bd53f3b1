package wire

import "strings"

// Endpoint names the metered parts of the API. Everything else is Other: it
// passes without being read.
type Endpoint uint8

// The metered endpoints.
const (
	Other Endpoint = iota
	Chat
	Completions
	Responses
	Embeddings
)

// EndpointOf says which metered endpoint a request addresses. The path is
// relative to the API's base, as it came; a leading slash is ignored, anything
// else must match exactly. Only POST is metered: a GET of responses/{id} or of
// chat/completions lists stored answers and costs nothing.
func EndpointOf(method, path string) Endpoint {
	if method != "POST" {
		return Other
	}
	switch strings.TrimPrefix(path, "/") {
	case "chat/completions":
		return Chat
	case "completions":
		return Completions
	case "responses":
		return Responses
	case "embeddings":
		return Embeddings
	}
	return Other
}

// String returns the endpoint's path below the API's base, "other" for Other.
func (e Endpoint) String() string {
	switch e {
	case Chat:
		return "chat/completions"
	case Completions:
		return "completions"
	case Responses:
		return "responses"
	case Embeddings:
		return "embeddings"
	default:
		return "other"
	}
}

// Metered reports whether requests to the endpoint are decoded and their usage recorded.
func (e Endpoint) Metered() bool { return e != Other }
