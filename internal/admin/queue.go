package admin

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

func (a *Admin) queue(w http.ResponseWriter, _ *http.Request, who httpapi.Caller) error {
	status := queueStatusOf(a.Limits.Snapshot(), time.Now())
	if who.Sees != httpapi.SeesEverything { // its own sessions' places in the order of all
		status.Sessions = slices.DeleteFunc(status.Sessions, func(s queueSession) bool { return s.Client != who.Name })
	}
	status.Memory = queueMemoryOf(a.Memory.Held(), a.Overhead.Held())
	return httpapi.WriteJSON(w, status)
}

// QueueStatus is the answer of /queue/status.
type QueueStatus struct {
	Waiting  int            `json:"waiting"`
	InFlight int            `json:"in_flight"`
	Groups   []QueueGroup   `json:"groups"`
	Sessions []queueSession `json:"sessions"`
	Memory   queueMemory    `json:"memory"`
}

// queueMemory is what requests and answers hold, in bytes, and the most that they may.
type queueMemory struct {
	Limit    int64 `json:"limit"`
	Held     int64 `json:"held"`
	Peak     int64 `json:"peak"` // since the start
	Requests int64 `json:"requests"`
	Answers  int64 `json:"answers"`
	Views    int64 `json:"views"`

	// What requests take beside that, estimated, and the most that they may.
	Overhead      int64 `json:"overhead"`
	OverheadLimit int64 `json:"overhead_limit"`
}

func queueMemoryOf(h, overhead memory.Held) queueMemory {
	return queueMemory{
		h.Most, h.All, h.Peak, h.Of[memory.Requests], h.Of[memory.Answers], h.Of[memory.Views],
		overhead.All, overhead.Most,
	}
}

// A QueueGroup is what shares its limits: a model, or the models of one deployment.
type QueueGroup struct {
	Name        string       `json:"name"`
	Profile     string       `json:"profile"`
	Waiting     int          `json:"waiting"`
	InFlight    int          `json:"in_flight"`
	PausedUntil *string      `json:"paused_until"`
	HalfOpen    bool         `json:"half_open"`
	Limits      []queueLimit `json:"limits"`
}

// A queueLimit is one limit of a group and what is left of it.
type queueLimit struct {
	Name   string  `json:"name"`
	Limit  int64   `json:"limit"`
	Level  float64 `json:"level"`
	Source string  `json:"source"` // configured or learned
}

// A queueSession is a session that waits.
type queueSession struct {
	Client    string  `json:"client"`
	SessionID string  `json:"session_id"`
	Group     string  `json:"group"`
	Waiting   int     `json:"waiting"`
	Position  int     `json:"position"`
	Weight    float64 `json:"weight"`
}

// queueStatusOf shows the limiter's groups; the caps over all of them come
// first, as a group without a name. A session's position is its place in the
// order of service among those that wait in its group, as it stands now.
func queueStatusOf(snap limit.Snapshot, now time.Time) QueueStatus {
	status := QueueStatus{Waiting: snap.Waiting, InFlight: snap.InFlight, Groups: []QueueGroup{}, Sessions: []queueSession{}}
	if len(snap.Global) > 0 {
		status.Groups = append(status.Groups, QueueGroup{Waiting: snap.Waiting, InFlight: snap.InFlight, Limits: queueLimits(snap.Global)})
	}
	for _, g := range snap.Groups {
		group := QueueGroup{Name: g.Name, Profile: g.Profile, Waiting: g.Waiting, InFlight: g.InFlight, HalfOpen: g.HalfOpen, Limits: queueLimits(g.Meters)}
		if g.Paused > 0 {
			group.PausedUntil = httpapi.Optional(httpapi.Timestamp(now.Add(g.Paused)))
		}
		status.Groups = append(status.Groups, group)
		slices.SortFunc(g.Sessions, func(a, b limit.SessionState) int {
			return cmp.Or(-cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Lag, b.Lag), strings.Compare(a.Session, b.Session))
		})
		position := 0
		for _, q := range g.Sessions {
			if q.Waiting == 0 {
				continue
			}
			position++
			status.Sessions = append(status.Sessions, queueSession{q.Client, q.Session, g.Name, q.Waiting, position, q.Weight})
		}
	}
	return status
}

func queueLimits(meters []limit.Meter) []queueLimit {
	limits := make([]queueLimit, 0, len(meters))
	for _, m := range meters {
		source := "configured"
		if m.Learned {
			source = "learned"
		}
		limits = append(limits, queueLimit{m.Name, m.Limit, m.Level, source})
	}
	return limits
}
