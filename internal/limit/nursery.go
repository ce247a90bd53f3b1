package limit

import (
	"slices"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/lane"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit/queue"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	maxNew    = 64 // models of a pattern that have not answered
	maxGuests = 8  // names that a snapshot shows of those
)

// A nursery is what the models have in common that a pattern matches and that have
// never answered well. Each has a queue, a pause and a breaker of its own, but their
// lanes take of one source, and their clients are in one contest: a name costs its
// inventor nothing, so it must buy neither a bucket nor a turn.
type nursery struct {
	pattern string
	base    *lane.Lane // of the source that they share; nothing is taken of it
	contest *queue.Contest
	models  map[llm.Model]*model
	crowd   *model      // all names beyond maxNew; nil = there never were so many
	guests  []llm.Model // the names that were asked for last
}

// nursery finds or makes the nursery that a name belongs to until it has answered.
func (c *core) nursery(name llm.Model, now llm.Instant) *nursery {
	pattern, cfg := c.configured(name)
	n := c.nurseries[pattern]
	if n == nil {
		n = &nursery{
			pattern: pattern, models: map[llm.Model]*model{}, contest: queue.NewContest(&c.roster),
			base: lane.New(llm.Model(pattern), cfg, lane.NewClock(), now),
		}
		c.nurseries[pattern] = n
	}
	return n
}

// enroll makes a model that takes of n's source.
func (c *core) enroll(n *nursery, name llm.Model, now llm.Instant) *model {
	m := newModel(name, n.contest, lane.NewShared(name, n.base), now)
	m.nursery = n
	return m
}

// meet notes that a name was asked for, for the Snapshot's sake.
func (n *nursery) meet(name llm.Model) {
	if slices.Contains(n.guests, name) {
		return
	}
	if len(n.guests) == maxGuests {
		n.guests = slices.Delete(n.guests, 0, 1)
	}
	n.guests = append(n.guests, name)
}

// title names a nursery for people: by the model in it, or by its pattern where
// there are several.
func (n *nursery) title() string {
	switch {
	case len(n.guests) == 1:
		return string(n.guests[0])
	case n.pattern == "":
		return newModels
	}
	return n.pattern
}

// forget drops the model of n that has been idle the longest, and reports whether
// there was one.
func (n *nursery) forget(now llm.Instant) bool {
	var idlest *model
	for _, m := range n.models {
		if m.idle() && m.pausedUntil() <= now && (idlest == nil || m.used < idlest.used || m.used == idlest.used && m.name < idlest.name) {
			idlest = m
		}
	}
	if idlest == nil {
		return false
	}
	delete(n.models, idlest.name)
	idlest.queue.Close()
	return true
}

// confirm gives the model of a name that has answered well a source of its own; its
// queue and its lane stay what they are. m is the model that was asked. Of a crowd only
// those who come from now on are in a queue of their own. Beyond maxModels nothing
// changes: such a model goes by what is configured.
func (c *core) confirm(m *model, name llm.Model, now llm.Instant) {
	n := m.nursery
	if n == nil {
		return
	}
	c.forget(now)
	if c.models[name] != nil || len(c.models) >= maxModels {
		return
	}
	if own := c.leave(name); own != nil {
		m = own // a crowd's name may have got a queue of its own meanwhile
	} else if m == n.crowd {
		m = c.enroll(n, name, now)
	}
	m.nursery = nil
	m.queue.Join(queue.NewContest(&c.roster))
	var source lane.Source
	if c.cfg.Source != nil {
		source = c.cfg.Source(name, c.wake)
	}
	m.lanes[0].Own(source, now)
	c.models[name] = m
}

// leave takes the model of a name out of its nursery; nil if it has none there.
func (c *core) leave(name llm.Model) *model {
	pattern, _ := c.configured(name)
	n := c.nurseries[pattern]
	if n == nil {
		return nil
	}
	m := n.models[name]
	n.drop(name)
	return m
}

// drop takes a name out of n.
func (n *nursery) drop(name llm.Model) {
	delete(n.models, name)
	n.guests = slices.DeleteFunc(n.guests, func(guest llm.Model) bool { return guest == name })
}

// regroup brings every model that has not answered to the nursery of its pattern:
// the patterns may have changed.
func (c *core) regroup(now llm.Instant) {
	for pattern, n := range c.nurseries {
		_, cfg := c.configured(llm.Model(pattern))
		n.base.Configure(cfg, now)
		if n.crowd != nil {
			n.crowd.lanes[0].Join(n.base)
		}
	}
	moving := []*model{}
	for pattern, n := range c.nurseries {
		for name, m := range n.models {
			if matching, _ := c.configured(name); matching != pattern {
				n.drop(name)
				moving = append(moving, m)
			}
			m.lanes[0].Join(n.base)
		}
	}
	for _, m := range moving {
		m.nursery = c.nursery(m.name, now)
		m.nursery.models[m.name] = m
		m.nursery.meet(m.name)
		m.lanes[0].Join(m.nursery.base)
		m.queue.Join(m.nursery.contest)
	}
}
