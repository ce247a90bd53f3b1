package limit

import (
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	maxControl = 16             // control calls of a client in flight
	maxOwed    = 2 * maxControl // and those that it has not paid for
)

// Control calls ask for nothing that costs: they list, look, delete and cancel. They go
// at once, before all models' queues, and are no less charged to the caps over all models
// than other requests. If the caps have nothing to give just now, or others wait for
// it, their client owes it: the due waits in the common order as a request would, and is
// paid at the client's turn. So whoever makes many control calls has fewer turns, and
// nobody else waits for them. They take no slot: one that cancels an answer must not wait
// for the end of that answer.
type control struct {
	calls   *model // the queue of those that wait, and the lane that only they pause
	dues    *model
	owed    int // dues that wait, of all clients
	clients map[string]*accountOf
}

// An accountOf is what a client has of control calls.
type accountOf struct{ inflight, owed int }

// A due is what one control call owes. It waits as a Lease that nobody sleeps on.
type due struct {
	lease Lease
	of    *Lease // whose it is; nil once that has ended
}

func newControl(c *core, now llm.Instant) control {
	free := func() *lane.Lane {
		return lane.New("", lane.Config{Profile: "postpaid", Share: 1, Roll: c.roll}, lane.NewClock(), now)
	}
	return control{
		calls: newModel("", queue.NewContest(&c.roster), free(), now), dues: newModel("", queue.NewContest(&c.roster), free(), now),
		clients: map[string]*accountOf{},
	}
}

// nextControl is the control call that goes next; without a lease none may, until at.
func (c *core) nextControl(now llm.Instant) choice {
	m := c.control.calls
	for {
		w := m.queue.Head(func(*queue.Waiter) float64 { return 1 })
		if w == nil {
			break
		}
		if a := c.control.clients[w.Session.Parent.Name]; a != nil && (a.inflight >= maxControl || a.owed >= maxOwed) {
			c.roster.Hold(w.Session.Parent, llm.Never) // until one of them ends, or is paid
			continue
		}
		ask := lane.Ask{Client: w.Session.Client()}
		l, v := m.soonest(w, &ask, now)
		next := choice{lease: owner(w), at: v.At, lane: l, ask: ask, cost: 1}
		next.dayIsOver = v.At > now && v.Limit.Daily() && v.At > w.Deadline
		if v.At > now && !next.dayIsOver {
			next.lease = nil
		}
		return next
	}
	return choice{at: llm.Never}
}

// admit lets a control call go.
func (c *core) admit(next *choice, now llm.Instant) {
	le := next.lease
	w := &le.queued
	le.held = c.newHeld()
	le.held.cost = next.cost
	le.model.queue.Serve(w, next.cost, now)
	c.grant(le, next, now)
	client := w.Session.Parent.Name
	a := c.control.clients[client]
	if a == nil {
		a = new(accountOf)
		c.control.clients[client] = a
	}
	a.inflight++
	ask := next.ask
	ask.Charge = slotless(ask.Charge)
	if v := c.caps.When(now, ask); v.At <= now && !c.contended {
		le.held.caps = c.spend(w.Session, next.ask.Charge, now)
		return
	}
	a.owed++
	c.control.owed++
	c.seq++
	d := &due{of: le}
	d.lease = Lease{model: c.control.dues, due: d}
	s := w.Session
	d.lease.queued = queue.Waiter{
		Session: c.control.dues.queue.Session(queue.Key{Band: s.Band(), Client: client, Session: s.Name, ClientWeight: s.Parent.Weight, Weight: s.Weight}, now),
		Owner:   &d.lease, Load: llm.Load{Requests: 1}, Seq: c.seq, QueuedAt: now, Deadline: llm.Never,
	}
	le.held.due = d
	c.control.dues.queue.Insert(&d.lease.queued, false)
	c.roster.Count(&d.lease.queued)
	c.list(c.control.dues)
}

// slotless is charge without its slot.
func slotless(charge llm.Vector) llm.Vector {
	charge[llm.Concurrent] = 0
	return charge
}

// spend takes charge of the caps, and gives the slot back at once.
func (c *core) spend(s *queue.Flow, charge llm.Vector, now llm.Instant) lane.Booking {
	charge[llm.Concurrent] = 1
	b := c.caps.Book(now, lane.Ask{Client: s.Client(), Charge: charge})
	b.End(now)
	return b
}

// pay takes a due of the caps, at its client's turn.
func (c *core) pay(next *choice, now llm.Instant) {
	d := next.lease.due
	le, w := &d.lease, &d.lease.queued
	le.held = c.newHeld()
	c.charge(le, next, now)
	b := c.spend(w.Session, next.ask.Charge, now)
	if of := d.of; of != nil {
		of.held.caps, of.held.due, of.held.common = b, nil, le.held.common
	}
	c.giveUp(le)
	le.model.queue.Ended(w.Session, now)
	c.forgive(d)
}

// forgive strikes a due off that has left its queue.
func (c *core) forgive(d *due) {
	c.delist(c.control.dues)
	c.control.owed--
	client := d.lease.queued.Session.Parent.Name
	c.control.clients[client].owed--
	c.control.settled(client)
	c.roster.ReleaseClients()
}

// settled forgets a client that has nothing in flight and owes nothing.
func (k *control) settled(client string) {
	if a := k.clients[client]; a.inflight == 0 && a.owed == 0 {
		delete(k.clients, client)
	}
}

// takeBackControl returns what a control call has paid, or owes.
func (c *core) takeBackControl(h *held, now llm.Instant) {
	if d := h.due; d != nil {
		h.due = nil
		c.control.dues.queue.Remove(&d.lease.queued, now)
		c.forgive(d)
		return
	}
	h.caps.TakeBack(now)
}

// endControl ends a control call. What it owes is still to be paid.
func (c *core) endControl(le *Lease) {
	if d := le.held.due; d != nil {
		d.of = nil
	}
	client := le.queued.Session.Parent.Name
	c.control.clients[client].inflight--
	c.control.settled(client)
}
