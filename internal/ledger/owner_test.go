package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func owned(owner, session string) Record {
	r := testRecord(session)
	r.Owner, r.Client = owner, owner
	if owner == "" {
		r.Client = "192.0.2.1"
	}
	return r
}

// The same id of two clients is two sessions, everywhere; who asks for all sees both, and their sum.
func TestStore_SessionsAreTheirClients(t *testing.T) {
	long := strings.Repeat("é", 64)
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		ctx := t.Context()
		for _, r := range []Record{
			owned("alice", "x"), owned("alice", "x"), owned("alice", "only"), owned("bob", "x"), owned("", "x"), owned("", "old"),
			owned(long, long), owned(long+"2", long), owned("a/b", "c"), owned("a", "c"),
		} {
			record(t, s, r)
		}
		all := map[string]int64{"x": 4, "only": 1, "old": 1, long: 2, "c": 2}
		for _, c := range []struct {
			reader *Reader
			want   map[string]int64 // requests by session
			lines  int              // of the list
		}{
			{&s.Reader, all, 9},
			{s.Of("alice"), map[string]int64{"x": 2, "only": 1}, 2},
			{s.Of("bob"), map[string]int64{"x": 1}, 1},
			{s.Of(""), map[string]int64{"x": 1, "old": 1}, 2},
			{s.Of(long), map[string]int64{long: 1}, 1},
			{s.Of(long + "2"), map[string]int64{long: 1}, 1},
			{s.Of("a/b"), map[string]int64{"c": 1}, 1},
			{s.Of("carol"), map[string]int64{}, 0},
			{s.Of("x"), map[string]int64{}, 0},
		} {
			name := fmt.Sprintf("%.8q", c.reader.whose.owner)
			got := map[string]int64{}
			for one, err := range c.reader.Status(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				if got[one.ID] != 0 {
					t.Errorf("%s: %s comes twice", name, one.ID)
				}
				got[one.ID] = one.Requests
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: all at once (-want +got):\n%s", name, diff)
			}
			clear(got)
			lines := 0
			for q := (SessionQuery{Limit: 1}); ; {
				page, err := c.reader.Sessions(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, one := range page.Sessions {
					if lines++; c.reader.whose.one && one.Owner != c.reader.whose.owner {
						t.Errorf("%s: lists a session of %q", name, one.Owner)
					}
					got[one.ID] += one.Requests
				}
				if q.Cursor = page.NextCursor; q.Cursor == "" {
					break
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" || lines != c.lines {
				t.Errorf("%s: in pages, %d lines, want %d (-want +got):\n%s", name, lines, c.lines, diff)
			}
			for id := range all {
				one, err := c.reader.Session(ctx, id)
				if want, known := c.want[id]; one.Requests != want || errors.Is(err, ErrNotFound) == known {
					t.Errorf("%s: %.8q has %d requests, %v; want %d", name, id, one.Requests, err, want)
				}
				var rows int64
				q := RecordQuery{Limit: 1}
				for {
					page, err := c.reader.Requests(ctx, id, q)
					if _, known := c.want[id]; errors.Is(err, ErrNotFound) == known {
						t.Errorf("%s: rows of %.8q: %v", name, id, err)
					}
					for _, r := range page.Records {
						if rows++; r.Session != id || c.reader.whose.one && r.Owner != c.reader.whose.owner {
							t.Errorf("%s: rows of %.8q hold one of %.8q of %q", name, id, r.Session, r.Owner)
						}
					}
					if q.Cursor = page.NextCursor; q.Cursor == "" {
						break
					}
				}
				usage, err := c.reader.Usage(ctx, UsageQuery{Session: id})
				used := int64(0)
				for _, row := range usage {
					used += row.Requests
				}
				if want, known := c.want[id]; rows != want || used != want || errors.Is(err, ErrNotFound) == known {
					t.Errorf("%s: %.8q has %d rows and %d used, %v; want %d", name, id, rows, used, err, want)
				}
			}
		}
		for client, want := range map[string]int64{"": 10, "alice": 3, "bob": 1, "192.0.2.1": 2, "nobody": 0} {
			rows, err := s.Usage(ctx, UsageQuery{Client: client})
			sum := int64(0)
			for _, row := range rows {
				sum += row.Requests
			}
			if err != nil || sum != want {
				t.Errorf("client %q used %d, %v; want %d", client, sum, err, want)
			}
		}

		if err := s.DeleteSession(ctx, &s.Reader, "x"); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("x of several is deleted: %v", err)
		}
		if err := s.DeleteSession(ctx, s.Of("bob"), "only"); !errors.Is(err, ErrNotFound) {
			t.Errorf("bob deletes what alice has: %v", err)
		}
		if err := s.DeleteSession(ctx, s.Of("alice"), "x"); err != nil {
			t.Error(err)
		}
		if one, err := s.Session(ctx, "x"); err != nil || one.Requests != 2 {
			t.Errorf("left of x: %+v, %v", one, err)
		}
		if page, err := s.Requests(ctx, "x", RecordQuery{}); err != nil || len(page.Records) != 2 {
			t.Errorf("left of x: %d rows, %v", len(page.Records), err)
		}
		record(t, s, owned("alice", "x")) // anew
		if one, err := s.Of("alice").Session(ctx, "x"); err != nil || one.Requests != 1 {
			t.Errorf("alice's x, anew: %+v, %v", one, err)
		}
		if err := errors.Join(s.DeleteSession(ctx, s.Of(""), "x"), s.DeleteSession(ctx, s.Of("bob"), "x"), s.DeleteSession(ctx, &s.Reader, "x")); err != nil {
			t.Errorf("the last of its id needs no name: %v", err)
		}
	})
}

// One transaction takes requests of many clients.
func TestStore_SessionsOfOneBatch(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		in := batch{records: []Record{owned("alice", "x"), owned("", "x"), owned("bob", "x"), owned("alice", "x"), owned("alice", "y")}}
		for i := range in.records {
			if err := in.records[i].prepare(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.backend.apply(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		for owner, want := range map[string]int64{"alice": 2, "bob": 1, "": 1} {
			if one, err := s.Of(owner).Session(t.Context(), "x"); err != nil || one.Requests != want {
				t.Errorf("%q has %d requests, %v; want %d", owner, one.Requests, err, want)
			}
		}
	})
}

// A cursor is good for the question that it was made for, and for nothing else.
func TestStore_CursorsAreSealed(t *testing.T) {
	stores(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		ctx := t.Context()
		for range 3 {
			for _, owner := range []string{"", "alice", "bob"} {
				for _, id := range []string{"x", "y", NewID().String()} {
					record(t, s, owned(owner, id))
				}
			}
		}
		alice, bob := s.Of("alice"), s.Of("bob")
		sessions, err1 := alice.Sessions(ctx, SessionQuery{Limit: 1})
		rows, err2 := alice.Requests(ctx, "x", RecordQuery{Limit: 1})
		if err := errors.Join(err1, err2); err != nil || sessions.NextCursor == "" || rows.NextCursor == "" {
			t.Fatal(err, sessions.NextCursor, rows.NextCursor)
		}
		altered := func(cursor string) string {
			raw, err := base64.RawURLEncoding.DecodeString(cursor)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)/2] ^= 1
			return base64.RawURLEncoding.EncodeToString(raw)
		}
		last := sessions.Sessions[0]
		for what, err := range map[string]error{
			"bob's list":                 second(bob.Sessions(ctx, SessionQuery{Cursor: sessions.NextCursor})),
			"everybody's list":           second(s.Sessions(ctx, SessionQuery{Cursor: sessions.NextCursor})),
			"rows":                       second(alice.Requests(ctx, "x", RecordQuery{Cursor: sessions.NextCursor})),
			"a list by a cursor of rows": second(alice.Sessions(ctx, SessionQuery{Cursor: rows.NextCursor})),
			"bob's rows":                 second(bob.Requests(ctx, "x", RecordQuery{Cursor: rows.NextCursor})),
			"rows of another session":    second(alice.Requests(ctx, "y", RecordQuery{Cursor: rows.NextCursor})),
			"an altered one":             second(alice.Sessions(ctx, SessionQuery{Cursor: altered(sessions.NextCursor)})),
			"an altered one of rows":     second(alice.Requests(ctx, "x", RecordQuery{Cursor: altered(rows.NextCursor)})),
			"half of one":                second(alice.Sessions(ctx, SessionQuery{Cursor: sessions.NextCursor[:20]})),
			"one of the release before":  second(alice.Sessions(ctx, SessionQuery{Cursor: base64.RawURLEncoding.EncodeToString([]byte(sessionCursor{last.LastAt.UnixMilli(), last.seq}.String()))})),
			"a request's id":             second(alice.Requests(ctx, "x", RecordQuery{Cursor: rows.Records[0].ID.String()})),
		} {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
		// It tells its bearer nothing of others: no number of sessions, no time.
		raw, _ := base64.RawURLEncoding.DecodeString(sessions.NextCursor)
		if strings.Contains(string(raw), fmt.Sprint(last.LastAt.UnixMilli()/1000)) {
			t.Errorf("the cursor %q can be read", raw)
		}
		if cfg.Type == "memory" {
			return
		}
		other := open(t, cfg) // another process on the same store turns the page
		page, err := other.Of("alice").Sessions(ctx, SessionQuery{Limit: 1, Cursor: sessions.NextCursor})
		if err != nil || len(page.Sessions) != 1 || page.Sessions[0].ID == last.ID {
			t.Errorf("another process reads %+v, %v", page, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// What the release before writes, beside this one or before it, is nobody's: it knows no owners.
func TestStore_WhatTheReleaseBeforeWrites(t *testing.T) {
	databases(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		ctx := t.Context()
		record(t, s, owned("alice", "x"))
		db := sqlOf(t, s).write
		upsert := "INSERT INTO sessions (key, parent, requests, first_at, last_at) VALUES (?, '', 1, 1, 2) " +
			"ON CONFLICT (key) DO UPDATE SET requests = sessions.requests + excluded.requests"
		for _, key := range []string{
			"x", "y",
			"alice/x",   // a request of alice's that was in flight when this release died
			"alice/new", // the first of a session
		} {
			if _, err := db.NewRaw(upsert, key).Exec(ctx); err != nil {
				t.Fatal(err)
			}
		}
		requests := func(r *Reader, id string) int64 {
			one, err := r.Session(ctx, id)
			if err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			return one.Requests
		}
		got := []int64{
			requests(s.Of(""), "x"), requests(s.Of(""), "y"), requests(s.Of("alice"), "x"), requests(s.Of("alice"), "y"), requests(&s.Reader, "x"),
		}
		if want := []int64{1, 1, 2, 0, 3}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		record(t, s, owned("alice", "new"))
		if n := requests(s.Of("alice"), "new"); n != 2 {
			t.Errorf("alice's new session has %d requests, want hers and what was in flight", n)
		}
		for one, err := range s.Of("").Status(ctx) {
			if err != nil || strings.Contains(one.ID, "/") {
				t.Errorf("nobody has the session %q, %v", one.ID, err)
			}
		}
	})
}

// A journal of the release before has no owners.
func TestRecord_OfAnEarlierJournal(t *testing.T) {
	text := `{"ID":"0198f000-0000-7000-8000-000000000001","StartedAt":"2026-01-02T03:04:05Z","Session":"a","Client":"alice","Outcome":1}`
	r, _, err := readFrame(strings.NewReader(string(appendFrame(nil, []byte(text)))))
	if err != nil || r.Owner != "" || r.Client != "alice" {
		t.Errorf("%+v, %v", r, err)
	}
}

// What a crash leaves of a request belongs to whom the request belonged.
func TestStore_InterruptedIsItsClients(t *testing.T) {
	databases(t, func(t *testing.T, cfg Config) {
		cfg.NoteAfter = time.Nanosecond
		before, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("n", 128)
		want := []sessionName{{"alice", "x"}, {"", "x"}, {long, long}}
		for _, name := range want {
			before.Start(owned(name.owner, name.id)) // and nothing more of it
		}
		waitFor(t, func() bool { return countOf(t, before, "inflight") == len(want) })
		closeStore(t, before)
		after := open(t, cfg)
		for _, name := range want {
			waitFor(t, func() bool {
				one, err := after.Of(name.owner).Session(t.Context(), name.id)
				return err == nil && one.UnknownUsage == 1
			})
		}
	})
}

func FuzzSessionName(f *testing.F) {
	for _, seed := range [][2]string{{"", "a"}, {"alice", "a"}, {"a/b", "c"}, {"a", "b/c"}, {strings.Repeat("n", 128), strings.Repeat("é", 64)}, {"", "alice/x"}, {"a", "#b"}} {
		f.Add(seed[0], seed[1], "alice", "a")
	}
	f.Fuzz(func(t *testing.T, owner, id, other, otherID string) {
		r := Record{Owner: owner, Session: id, ID: NewID(), Outcome: Complete, StartedAt: time.Unix(1, 0)}
		if id == "" || r.prepare() != nil {
			return
		}
		name := r.sessionName()
		if key := name.key(); !storable(key, maxKeyBytes) || key == "" {
			t.Errorf("%v has the key %q", name, key)
		}
		if !strings.Contains(id, "/") {
			if got := sessionNameOf(name.text()); got != name {
				t.Errorf("%v comes back as %v", name, got)
			}
			if owner == "" && name.key() != id {
				t.Errorf("nobody's %q has the key %q", id, name.key())
			}
		}
		if o := (sessionName{other, otherID}); o != name && !strings.Contains(id+otherID, "#") && o.key() == name.key() {
			t.Errorf("%v and %v have one key, %q", name, o, o.key())
		}
	})
}
