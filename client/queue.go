package client

import (
	"context"
	"net/http"
	"time"
)

// Queue is the state of the sidecar's queue at one moment.
type Queue struct {
	Waiting  int            `json:"waiting"`   // requests that wait for a place
	InFlight int            `json:"in_flight"` // requests at the upstream
	Groups   []QueueGroup   `json:"groups"`
	Sessions []QueueSession `json:"sessions"` // those with requests waiting
	Memory   QueueMemory    `json:"memory"`
}

// QueueMemory is what the sidecar's requests and answers hold, in bytes.
type QueueMemory struct {
	Limit    int64 `json:"limit"`    // QUEUE_MAX_BYTES
	Held     int64 `json:"held"`     // the sum of the kinds below
	Peak     int64 `json:"peak"`     // the most that was held at once, since the start
	Requests int64 `json:"requests"` // bodies, until nothing can be sent again
	Answers  int64 `json:"answers"`  // what is kept back of answers
	Views    int64 `json:"views"`    // copies made to be read

	// Overhead is what requests take beside that, an estimate; OverheadLimit is the
	// most that they may.
	Overhead      int64 `json:"overhead"`
	OverheadLimit int64 `json:"overhead_limit"`
}

// QueueGroup is a set of models that share limits.
type QueueGroup struct {
	Name     string `json:"name"`    // "" for the limits over all models
	Profile  string `json:"profile"` // how the upstream charges: a word of PROVIDER_PROFILE, "reserve" until it is known
	Waiting  int    `json:"waiting"`
	InFlight int    `json:"in_flight"`

	// PausedUntil is when the upstream lets the group go on, nil when not paused.
	PausedUntil *time.Time `json:"paused_until"`

	// HalfOpen says that the upstream refused everything of late: requests wait,
	// a few go ahead as probes, and each answer lets more go.
	HalfOpen bool         `json:"half_open"`
	Limits   []QueueLimit `json:"limits"`
}

// QueueLimit is one limit of a group.
type QueueLimit struct {
	Name   string  `json:"name"`   // "requests_per_minute", "tokens_per_minute", …
	Limit  int64   `json:"limit"`  // in the name's unit
	Level  float64 `json:"level"`  // what may be spent at once; negative: owed
	Source string  `json:"source"` // "configured" or "learned"
}

// QueueSession is a session with requests waiting.
type QueueSession struct {
	Client    string  `json:"client"`
	SessionID string  `json:"session_id"`
	Group     string  `json:"group"`
	Waiting   int     `json:"waiting"`
	Position  int     `json:"position"` // of its next request, among all that wait in the group
	Weight    float64 `json:"weight"`
}

// Queue returns the state of the queue: limits, levels, and who waits.
func (c *Client) Queue(ctx context.Context) (Queue, error) {
	var queue Queue
	err := c.call(ctx, http.MethodGet, "/queue/status", nil, &queue)
	return queue, err
}
