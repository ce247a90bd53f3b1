package session

import (
	"net/url"
	"strings"
)

// Roots are the paths below which the API is served, by the ways in which SDKs
// put URLs together.
func Roots() []string { return []string{"/v1", "/session", "/openai"} }

// IsAPI reports whether a path is below one of Roots.
func IsAPI(path string) bool {
	for _, root := range Roots() {
		if strings.HasPrefix(path, root+"/") {
			return true
		}
	}
	return false
}

// A Target is what a request's path asks of the provider, without the session.
type Target struct {
	// Rest is the escaped path below the API's base, as it came:
	// "chat/completions". It says which endpoint is meant.
	Rest string
	// Origin is the escaped path below the provider's origin, for paths that do not
	// hang on the base: "openai/deployments/prod/chat/completions". "" for others.
	Origin string
	// Deployment is the model that such a path names; "" for none.
	Deployment string
}

// cutSession takes the session out of an escaped path. It stands before the path
// of an API (/session/{id}/v1/…), or behind its version (/v1/session/{id}/…).
// SDKs that add a version by themselves lead to /v1/session/{id}/v1/….
func cutSession(path string) (id, below string, err error) {
	after, ok := strings.CutPrefix(path, "/session/")
	if !ok {
		after, ok = strings.CutPrefix(path, "/v1/session/")
	}
	if !ok {
		return "", path, nil
	}
	escaped, rest, _ := strings.Cut(after, "/")
	id, err = url.PathUnescape(escaped)
	if err != nil {
		return "", "", ErrInvalidID
	}
	if !strings.HasPrefix(rest, "v1/") && !strings.HasPrefix(rest, "openai/") {
		rest = "v1/" + rest
	}
	return id, "/" + rest, CheckID(id)
}

// targetOf reads an escaped path without a session: /v1/…, or one of Azure's:
// /openai/v1/… and /openai/deployments/{deployment}/….
func targetOf(path string) Target {
	azure, ok := strings.CutPrefix(path, "/openai/")
	if !ok {
		return Target{Rest: strings.TrimPrefix(path, "/v1/")}
	}
	t := Target{Rest: azure, Origin: strings.TrimPrefix(path, "/")}
	if below, ok := strings.CutPrefix(azure, "v1/"); ok {
		t.Rest = below
	} else if below, ok := strings.CutPrefix(azure, "deployments/"); ok {
		if name, rest, ok := strings.Cut(below, "/"); ok {
			t.Rest = rest
			t.Deployment, _ = url.PathUnescape(name) // CheckPath has unescaped it before
		}
	}
	return t
}
