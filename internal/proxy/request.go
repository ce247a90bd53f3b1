package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/tokens"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

// A request is what a client asked for. It is read from its connection once, step by
// step; what the steps have found stays as it is.
type request struct {
	r       *http.Request
	cfg     *config.Config // as it was when the request came, for all of its way
	client  string
	owner   string // whose its session is; "" for nobody's
	who     session.Identity
	id      ledger.ID
	started time.Time

	endpoint wire.Endpoint
	decoded  *wire.Request // nil until it is decoded
	model    llm.Model     // of decoded, as records and the log have it
	body     *heldBody     // nil: it has none, or it streams through
	upload   *patientBody  // where the body streams through
	estimate tokens.Estimate
	deadline deadline
}

// A deadline is when the waiting ends, whatever it is for: a budget, a place, or the
// next try.
type deadline struct {
	since  time.Time // when it began; zero: it has not
	until  time.Time // QUEUE_MAX_WAIT, or sooner if the client says so
	answer time.Time // its SDK gives the whole request up then; zero: it does not say
}

// await sets the deadline. It counts from now on: until here the client has sent.
func (q *request) await() {
	now, most := time.Now(), q.cfg.QueueMaxWait
	if q.who.MaxWait > 0 {
		most = min(most, q.who.MaxWait)
	}
	q.deadline = deadline{since: now, until: now.Add(most)}
	if d := patience(q.r.Header); d > 0 {
		q.deadline.answer = now.Add(d)
	}
}

// left is the time until t, and at least a little: who waits no longer is told so by
// what it waits for.
func left(t time.Time) time.Duration { return max(time.Until(t), time.Millisecond) }

// patience is how long the client's SDK waits for an answer, queue included;
// 0 = it does not say.
func patience(h http.Header) time.Duration {
	least := time.Duration(0)
	for _, header := range []string{"X-Stainless-Read-Timeout", "X-Stainless-Timeout"} {
		seconds, err := strconv.ParseFloat(h.Get(header), 64)
		if err != nil || !(seconds > 0 && seconds < 1e6) {
			continue
		}
		if d := time.Duration(seconds * float64(time.Second)); least == 0 || d < least {
			least = d
		}
	}
	return least
}

// close leaves the body to the server.
func (q *request) close() {
	if q.body != nil {
		q.body.release()
	}
	if q.upload != nil {
		q.upload.close()
	}
}
