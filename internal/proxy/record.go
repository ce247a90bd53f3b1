package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// ledgerPause is how long LEDGER_ON_FAILURE=refuse turns requests away after a
// record was lost; the next one through tries the ledger again.
const ledgerPause = 5 * time.Second

// Unfit says why requests are refused while the ledger fails; nil: they are not.
func (p *Proxy) Unfit() error {
	lost := p.lostAt.Load()
	if p.settings.Load().LedgerOnFailure == "refuse" && lost != 0 && time.Since(time.Unix(0, lost)) < ledgerPause {
		return errLedger
	}
	return nil
}

// recordTimeout bounds how long a client waits for the ledger: past it the
// answer, which is already billed, is delivered all the same.
const recordTimeout = 10 * time.Second

// record is the ledger's row, as far as it is known: of what was asked, of the last
// attempt, and of the answer. It is derived here and nowhere else.
func (x *exchange) record() ledger.Record {
	q, t := &x.req, &x.try
	row := ledger.Record{
		ID: q.id, StartedAt: q.started, Owner: q.owner, Session: q.who.Session, Parent: q.who.Parent, Client: q.client,
		Route: q.endpoint.String(), Metered: q.endpoint.Decoded(), Stream: q.decoded.Stream, Model: q.model,
		EstimatedPrompt: q.estimate.Input, EstimatedOutput: q.estimate.Output, Draws: x.draw.draws,
		Attempts: x.tries, QueueWait: t.queued, Status: t.status, FirstByte: t.firstByte, Refused: t.refused,
	}
	if x.watch != nil {
		row.AnsweredModel, row.Refused = ledger.CleanName(x.watch.Model()), x.watch.Refused()
		row.Told = x.watch.Told()
	}
	if x.usage != nil {
		row.UsageKnown, row.Usage = true, *x.usage
	}
	return row
}

// book writes the exchange's one row, and settles its budgets by it. Calling it again
// does nothing. It must not inherit the client's cancellation: who leaves early has
// used tokens all the same.
func (x *exchange) book(failure error) {
	if x.booked {
		return
	}
	x.booked = true
	x.row = x.record()
	x.row.Total, x.row.Outcome = time.Since(x.req.started), x.outcome(failure)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.req.r.Context()), recordTimeout)
	defer cancel()
	if err := x.p.ledger.Record(ctx, x.row); err != nil {
		if !errors.Is(err, ledger.ErrInvalid) { // the others' records are not concerned
			x.p.lostAt.Store(time.Now().UnixNano())
		}
		x.p.metrics.Unrecorded.Inc()
		x.p.logger.Error("usage not recorded", "error", err.Error(), "record", ledgerRow(x.row))
	}
	x.settleBudget()
}

// depart books an exchange that ended before its answer was relayed. One that was
// never sent has no row.
func (x *exchange) depart(failure error) {
	switch {
	case x.tries > 0:
		// Without a failure it has a row by now, or it panicked.
		x.truncated = x.truncated || failure == nil && !x.booked
		x.book(failure)
	case x.sent.Load():
		x.p.ledger.Forget(x.req.id)
	}
}

// reported returns what the answer said of its cost, nil if it said nothing; a
// count beyond what the ledger can hold is none.
func (x *exchange) reported() *llm.Usage {
	if x.watch == nil {
		return nil
	}
	u, known := x.watch.Usage()
	if !known || u.Most() > ledger.MaxTokens {
		return nil
	}
	return &u
}

// outcome says how an exchange ended.
func (x *exchange) outcome(failure error) ledger.Outcome {
	switch {
	case x.clientGone():
		return ledger.ClientGone
	case x.try.status != http.StatusSwitchingProtocols && (x.try.status < 200 || x.try.status > 299), x.watch != nil && x.watch.Failed():
		return ledger.UpstreamError
	case failure != nil || x.truncated:
		return ledger.Truncated
	}
	return ledger.Complete
}

// ledgerRow is a record as the log keeps it when the ledger cannot.
func ledgerRow(r ledger.Record) slog.Value {
	return slog.GroupValue(
		slog.String("request_id", r.ID.String()), slog.String("session", r.Session), slog.String("client", r.Client),
		slog.String("route", r.Route), slog.String("model", string(r.Model)), slog.Int("status", r.Status),
		slog.String("outcome", r.Outcome.String()), slog.Bool("usage_known", r.UsageKnown),
		slog.Int64("prompt_tokens", r.Usage.Input), slog.Int64("completion_tokens", r.Usage.Output),
		slog.Int64("told_total", r.Told.Total), slog.String("told_cost", r.Told.Cost),
	)
}
