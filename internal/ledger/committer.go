package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// The committer is the only goroutine that writes. It batches by nature: it takes what
// has gathered while the last transaction ran, commits that, and looks again. No timer adds
// a delay, an idle store commits at once, and a busy one shares an fsync among hundreds.

// counts are the counters behind Stats.
type counts struct {
	written, duplicates, commits, retries, spilled, replayed, rejected, failed, restored atomic.Int64
}

// Stats is a snapshot for metrics. All but Pending, InFlight, Journaled and Degraded only grow.
type Stats struct {
	Pending   int  // records accepted and not yet stored
	InFlight  int  // requests started and not yet recorded; 0 in memory, which notes none
	Journaled int  // records in the journal now
	Degraded  bool // the store could not be written at the last attempt

	Written    int64 // records stored
	Duplicates int64 // records offered again
	Commits    int64 // transactions
	Retries    int64 // failed attempts to write
	Spilled    int64 // records that went through the journal
	Replayed   int64 // records read back from it
	Rejected   int64 // records that the store refused for good; logged
	Failed     int64 // records not stored, rejected ones included; logged
	Restored   int64 // times that the store was taken away, and made anew
}

// Stats returns a snapshot; it is cheap.
func (s *Store) Stats() Stats {
	return Stats{
		Pending: s.queue.waiting(), InFlight: s.flight.count(), Journaled: s.journal.records(),
		Degraded: s.health.fault() != nil,
		Written:  s.stats.written.Load(), Duplicates: s.stats.duplicates.Load(),
		Commits: s.stats.commits.Load(), Retries: s.stats.retries.Load(),
		Spilled: s.stats.spilled.Load(), Replayed: s.stats.replayed.Load(),
		Rejected: s.stats.rejected.Load(), Failed: s.stats.failed.Load(), Restored: s.stats.restored.Load(),
	}
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	pruneEvery   = time.Hour

	// prunePatience is how long retention waits for an idle moment; then it takes its turns among the batches.
	prunePatience = time.Minute
)

// outage is the committer's view of a store that does not take writes. Whether it is back is asked
// beside the committer, which meanwhile has records to put into the journal.
type outage struct {
	on      bool
	backoff time.Duration
	retryAt time.Time
	asking  chan revival // the answer to come; nil = nobody asks
}

// A revival is what came of the attempt to bring a store back.
type revival struct {
	done string // what had to be done, "" = nothing
	err  error
}

func (o *outage) fail(now time.Time, last time.Duration) {
	o.backoff = min(max(2*o.backoff, firstBackoff), last)
	o.on, o.retryAt = true, now.Add(o.backoff)
}

// run is the committer. It ends when the queue is closed and empty, or when Close loses
// patience with a store that is down.
func (s *Store) run() {
	defer close(s.done)
	asked, stopAsking := context.WithCancel(s.life)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var down outage
	defer func() {
		stopAsking()
		if down.asking != nil {
			<-down.asking
		}
	}()
	nextPrune := time.Now() // the first slice runs at once
	nextTend := nextPrune.Add(s.tendEvery())
	for {
		now := time.Now()
		s.runControls(&down)
		if down.on && down.asking == nil && !now.Before(down.retryAt) {
			down.asking = make(chan revival, 1)
			go func(answer chan<- revival) {
				done, err := s.backend.revive(asked)
				answer <- revival{done, err}
			}(down.asking)
		}
		if !down.on && !now.Before(nextTend) {
			s.heartbeat(&down)
			nextTend = now.Add(s.tendEvery())
		}
		replaying := !down.on && s.journal.records() > 0
		if replaying {
			if err := s.replay(s.journal); err != nil {
				s.outage(&down, err)
			} else {
				down = outage{}
			}
		}
		notes, wait := s.flight.due(now, maxBatch)
		stored, blocked := false, false
		if work := s.queue.take(maxBatch); len(work) > 0 || len(notes) > 0 {
			stored = s.commit(work, notes, &down)
			blocked = !stored // neither store nor journal: wait for the next attempt
		}
		if s.life.Err() != nil || !stored && s.queue.drained() {
			return
		}
		// Retention waits for idle moments, but not for ever.
		if late := now.Sub(nextPrune); !blocked && !down.on && late >= 0 && (!stored || late > prunePatience) && s.prune(now) {
			nextPrune = now.Add(pruneEvery)
		}
		if stored || replaying && !down.on {
			continue
		}
		timer.Reset(s.sleep(now, wait, earlier(nextPrune, nextTend), &down))
		wake := s.queue.wake
		if blocked {
			wake = nil
		}
		select {
		case <-wake:
		case r := <-down.asking:
			s.retry(&down, r)
		case <-timer.C:
		case <-s.life.Done():
		}
	}
}

// sleep is how long the committer may sleep when nobody wakes it. During an outage only the
// next attempt counts: what else is due cannot be done, and would keep it spinning.
func (s *Store) sleep(now time.Time, note time.Duration, chores time.Time, down *outage) time.Duration {
	if down.asking != nil {
		return time.Hour // the answer wakes it
	}
	if down.on {
		return max(down.retryAt.Sub(now), 0)
	}
	d := chores.Sub(now)
	if note > 0 {
		d = min(d, note)
	}
	return max(d, 0)
}

// errStuck is what Record returns while neither store nor journal can be written: to wait would be no use. The
// record stays in the queue, and is stored once that is possible.
var errStuck = fmt.Errorf("%w: neither store nor journal can be written; the record waits in memory", ErrUnavailable)

// commit stores a batch and finishes its records; while the store is down they go to the journal.
// False means that neither took them: they are at the head of the queue again.
func (s *Store) commit(work []*pending, notes []Record, down *outage) bool {
	if !down.on {
		left, err := s.apply(work, notes)
		if err == nil {
			*down = outage{}
			s.stuck.Store(false)
			return true
		}
		s.outage(down, err)
		work = left
	}
	if len(work) == 0 {
		return true
	}
	if s.journal != nil {
		err := s.journal.append(work)
		if err == nil {
			s.stats.spilled.Add(int64(len(work)))
			s.stuck.Store(false)
			s.queue.settle(work, nil)
			return true
		}
		s.cfg.Logger.Error("journal not writable", slog.Any("error", err))
		s.stuck.Store(true) // before giveUp: who comes after that sees it
		s.queue.putBack(work)
		s.queue.giveUp(errStuck)
		return false
	}
	s.queue.putBack(work)
	return false
}

// apply stores a batch. One that the store refuses for good is halved until the culprit is
// alone, so that its neighbours do not pay. The error is nil or ErrUnavailable, with what is
// still to be stored.
func (s *Store) apply(work []*pending, notes []Record) (left []*pending, err error) {
	b := batch{notes: notes, records: make([]Record, 0, len(work))}
	seen := make(map[ID]bool, len(work))
	for _, p := range work {
		if p.noted {
			b.clear = append(b.clear, p.record.ID)
		}
		if !seen[p.record.ID] {
			seen[p.record.ID] = true
			b.records = append(b.records, p.record)
		}
	}
	s.health.begin()
	fresh, err := s.backend.apply(s.life, b)
	if err == nil {
		s.stats.commits.Add(1)
		s.stats.written.Add(int64(fresh))
		s.stats.duplicates.Add(int64(len(work) - fresh))
		s.health.end(nil)
		s.queue.settle(work, nil)
		return nil, nil
	}
	if errors.Is(err, ErrUnavailable) {
		s.stats.retries.Add(1)
		s.health.end(err)
		return work, err
	}
	s.health.end(nil)
	switch {
	case len(notes) > 0: // notes are dispensable
		return s.apply(work, nil)
	case len(work) == 0:
		return nil, nil
	case len(work) == 1:
		s.stats.rejected.Add(1)
		s.lose(&work[0].record, err)
		s.queue.settle(work, err)
		return nil, nil
	}
	first, second := work[:len(work)/2], work[len(work)/2:]
	if left, err := s.apply(first, nil); err != nil {
		return append(slices.Clone(left), second...), err
	}
	return s.apply(second, nil)
}

// outage notes that a write failed for lack of the store.
func (s *Store) outage(down *outage, err error) {
	if !down.on && down.backoff == 0 { // later ones are of the same outage
		s.cfg.Logger.Error("ledger store not writable", slog.Any("error", err))
	}
	down.fail(time.Now(), s.cfg.lastBackoff)
}

// retry goes by what the store answered.
func (s *Store) retry(down *outage, r revival) {
	down.asking = nil
	if r.done != "" {
		s.stats.restored.Add(1)
		s.health.restored(r.done)
		s.cfg.Logger.Error(takenAway, slog.String("file", s.cfg.place), slog.String("done", r.done))
	}
	if s.journal.records() > 0 {
		if err := s.journal.keep(s.journal.end); err != nil {
			s.cfg.Logger.Error("journal not writable", slog.Any("error", err))
		}
	}
	if r.err != nil {
		s.health.end(r.err)
		s.outage(down, r.err)
		return
	}
	s.health.end(nil)
	s.stuck.Store(false)
	down.on = false
}

// tendEvery leaves an instance that lives several beats before others may call it dead.
func (s *Store) tendEvery() time.Duration { return s.cfg.DeadAfter / 4 }

// heartbeat has the backend look after this process and its neighbours.
func (s *Store) heartbeat(down *outage) {
	s.health.begin()
	booked, err := s.backend.heartbeat(s.life)
	s.health.end(err)
	if booked > 0 {
		s.cfg.Logger.Warn("requests were cut off by a crash", slog.Int("requests", booked))
	}
	if err != nil {
		s.stats.retries.Add(1)
		s.outage(down, err)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// replay stores the next records of a journal, and empties it behind the last. It goes in steps, so that records
// which come meanwhile need not wait for all of it. A crash in between replays it again,
// which changes nothing: records are known by their ids.
func (s *Store) replay(j *journal) error {
	chunk, next, err := j.read(j.done, j.end, maxBatch)
	if err != nil {
		return fmt.Errorf("replay journal: %w: %w", ErrUnavailable, err)
	}
	work := make([]*pending, len(chunk))
	for i, r := range chunk {
		work[i] = &pending{record: r, noted: true, placeless: true}
	}
	if len(chunk) > 0 {
		if _, err := s.apply(work, nil); err != nil {
			return err
		}
		j.stored(chunk, next)
		s.stats.replayed.Add(int64(len(chunk)))
	}
	if next < j.end && len(chunk) > 0 {
		return nil
	}
	if j.torn {
		s.cfg.Logger.Error("the journal was damaged: records are missing from the ledger store", slog.String("journal", j.file.Name()))
	}
	if err := j.reset(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.cfg.Logger.Info("journal replayed into the ledger store")
	return nil
}

// runControls does what was asked for between two batches.
func (s *Store) runControls(down *outage) {
	for _, c := range s.queue.takeControls() {
		err := s.health.fault()
		if !down.on || err == nil { // else records would wait for a server that does not answer
			err = c.do(s.life)
		}
		if errors.Is(err, ErrUnavailable) && !down.on {
			s.health.end(err)
			s.outage(down, err)
		}
		if c.done != nil {
			c.done <- err
		}
	}
}

// prune removes one slice of what is beyond its age, and tells whether it was the last.
func (s *Store) prune(now time.Time) (finished bool) {
	now = steady(s.opened, now.Sub(s.opened), now)
	var h horizon
	if s.cfg.KeepRequests > 0 {
		h.records = now.Add(-s.cfg.KeepRequests)
	}
	if s.cfg.KeepHourly > 0 {
		h.hours = now.Add(-s.cfg.KeepHourly)
	}
	more, err := s.backend.prune(s.life, h)
	if err != nil {
		s.cfg.Logger.Warn("retention stopped", slog.Any("error", err))
		return true
	}
	return !more
}

// steady is the present for retention: wall, unless the wall clock has run ahead of the time that went by
// since opened. A clock that jumps a year forward must not empty the ledger.
func steady(opened time.Time, since time.Duration, wall time.Time) time.Time {
	if by := opened.Add(since).Round(0); by.Before(wall.Round(0)) {
		return by
	}
	return wall
}
