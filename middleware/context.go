package middleware

import "context"

// Keys are types, not values, so that no other package can name them.
type (
	sessionKey struct{}
	parentKey  struct{}
	traceKey   struct{}
)

// WithSession returns a context whose requests are accounted to session id.
// It replaces a session that ctx already carries. The id is judged when a
// request is sent: one that the sidecar would refuse, the empty one included,
// then fails with [ErrInvalidSession].
func WithSession(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, sessionKey{}, id)
}

// SessionFrom returns the session that ctx carries. It reports false when there
// is none.
func SessionFrom(ctx context.Context) (id string, ok bool) {
	id, ok = ctx.Value(sessionKey{}).(string)
	return id, ok
}

// WithParent returns a context whose requests draw on the budget of session id
// beside their own, as the agents of one task draw on the task's. It is judged
// like the id of [WithSession].
func WithParent(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, parentKey{}, id)
}
