package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/upstream"
)

// A schedule is a history of faults made of one number: clients that leave, read
// slowly, half-close or send nonsense; a provider that throttles, fails, stalls,
// lies and breaks connections; a sidecar that is restarted and whose ledger is
// locked by others. It runs against the whole sidecar in virtual time, with
// SQLite on disk, and is then reconciled (schedule_check_test.go).
//
//	SCHEDULES=1000 go test ./sidecar -run TestSchedules    so many, from seed 1
//	go test ./sidecar -run TestSchedules -schedule 42 -v   one of them again

var scheduleSeed = flag.Uint64("schedule", 0, "run only the fault schedule of this seed")

func TestSchedules_Reconcile(t *testing.T) {
	seeds := []uint64{*scheduleSeed}
	if *scheduleSeed == 0 {
		n := 60
		if testing.Short() {
			n = 8
		}
		if text := os.Getenv("SCHEDULES"); text != "" {
			var err error
			if n, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		}
		seeds = nil
		for i := range n {
			seeds = append(seeds, uint64(i+1))
		}
	}
	var sum tally
	for _, seed := range seeds {
		before := descriptors(t)
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			p := newPlan(seed)
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := &stage{t: t, plan: p, dir: dir, outcomes: make([]outcome, len(p.calls)+1)}
				s.run()
				sum.add(s)
			})
			checkFiles(t, dir)
			if after := descriptors(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
		if !ok {
			t.Logf("again: go test ./sidecar -run TestSchedules -schedule %d -v", seed)
		}
	}
	t.Logf("%d schedules: %+v", len(seeds), sum)
	// A harness whose faults never happen proves nothing.
	if len(seeds) >= 50 && (sum.complete < 300 || sum.left < 50 || sum.cut < 50 || sum.absorbed < 50 || sum.restarts < 10 || sum.outages < 10) {
		t.Errorf("the schedules are too tame: %+v", sum)
	}
}

// tally says what the schedules were made of, and what came of them.
type tally struct {
	calls, attempts, complete, refused, left, cut int
	absorbed                                      int // upstream 429s and the like that no client saw
	restarts, outages                             int
}

func (a *tally) add(s *stage) {
	for _, c := range s.plan.calls {
		o := &s.outcomes[c.id]
		a.calls++
		switch {
		case o.complete(c):
			a.complete++
		case o.left:
			a.left++
		case o.status >= 300:
			a.refused++
		case o.err != nil:
			a.cut++
		}
	}
	for _, e := range s.sim.Ledger() {
		a.attempts++
		if e.Status == 429 || e.Status == 503 {
			a.absorbed++
		}
	}
	a.restarts += s.restarts
	a.outages += s.outages
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	return len(entries)
}

const (
	upstreamCanary = "sk-upstream-canary"
	clientCanary   = "key-canary-client"
	promptCanary   = "prompt-canary"
)

// A stage is a schedule being played.
type stage struct {
	t    *testing.T
	plan *plan
	dir  string
	log  lockedBuffer

	sim      *provider.Server
	up       *sidecartest.Cable
	faultsMu sync.Mutex // of what is drawn and counted as requests arrive

	mu   sync.Mutex
	down *sidecartest.Cable // of the sidecar that runs now
	srv  *server
	end  func()

	outcomes          []outcome // by call id
	restarts, outages int
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (s *stage) run() {
	s.up = sidecartest.NewCable()
	cfg := s.plan.provider
	cfg.FaultOf = s.faultOf
	cfg.Keys = []string{upstreamCanary}
	s.sim = provider.New(cfg)
	stopSim := s.sim.Serve(s.up)
	damage := rand.New(rand.NewPCG(s.plan.seed, 2))
	s.up.Damage = func() sidecartest.Breakage {
		if s.plan.dialled != nil {
			s.plan.dialled()
		}
		s.faultsMu.Lock()
		defer s.faultsMu.Unlock()
		return s.plan.breakage(damage)
	}
	s.start()

	var calls sync.WaitGroup
	for _, c := range s.plan.calls {
		calls.Go(func() {
			<-time.After(c.at)
			s.outcomes[c.id] = s.call(c)
		})
	}
	for _, e := range s.plan.events {
		<-time.After(e.after)
		s.disturb(e)
	}
	calls.Wait()
	s.settle()
	s.reconcile()
	s.end()
	s.sim.Wait()
	if err := stopSim(); err != nil {
		s.t.Errorf("stop the provider: %v", err)
	}
	s.checkLog()
}

// start starts a sidecar on the schedule's ledger.
func (s *stage) start() {
	settings := append([]string{
		"OPENAI_API_KEY", upstreamCanary, "OPENAI_BASE_URL", "http://provider/v1", "LOG_LEVEL", "debug", "SHUTDOWN_GRACE", "10s",
		"REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(s.dir, "sessions.db"),
		"CLIENT_API_KEYS", "web=" + clientCanary,
	}, s.plan.settings...)
	env := sidecartest.Pairs(settings)
	config, err := config.Load(nil, func(name string) string { return env[name] })
	if err != nil {
		s.t.Fatal(err)
	}
	logger := slog.New(slog.NewJSONHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := openLedger(s.t.Context(), config, logger)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := upstream.NewTransport()
	transport.DialContext = s.up.DialContext
	base, err := url.Parse("http://provider/v1")
	if err != nil {
		s.t.Fatal(err)
	}
	srv := newServer(dependencies{
		Config: config, Logger: logger, Ledger: store,
		Upstream: upstream.New(upstream.Config{
			Base: base, Key: func() string { return upstreamCanary }, Transport: transport,
			Private: append(session.Headers(), config.SessionHeader), Via: "1.1 schedule",
		}),
	})
	srv.restore(s.t.Context())
	down := sidecartest.NewCable()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.serve(ctx, down, nil) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv, s.down = srv, down
	s.end = func() {
		cancel()
		if err := <-served; err != nil && !errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("serve: %v", err)
		}
		if err := srv.close(); err != nil {
			s.t.Errorf("close: %v", err)
		}
		transport.CloseIdleConnections()
	}
}

// dial connects to the sidecar that runs at the moment.
func (s *stage) dial(ctx context.Context, network, address string) (down *sidecartest.CableEnd, err error) {
	s.mu.Lock()
	c := s.down
	s.mu.Unlock()
	conn, err := c.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*sidecartest.CableEnd), nil
}

// faultOf gives a call's attempts their faults, in order.
func (s *stage) faultOf(r *http.Request) provider.Fault {
	id, _ := strconv.Atoi(r.Header.Get("X-Call"))
	s.faultsMu.Lock()
	defer s.faultsMu.Unlock()
	if s.plan.choose != nil {
		return s.plan.choose(r)
	}
	if id < 1 || id > len(s.plan.calls) {
		return provider.Sound()
	}
	c := &s.plan.calls[id-1]
	if c.next >= len(c.faults) {
		return provider.Sound()
	}
	c.next++
	return c.faults[c.next-1]
}

// disturb does one thing to the sidecar.
func (s *stage) disturb(e event) {
	switch e.kind {
	case restart:
		s.restarts++
		s.end()
		<-time.After(e.lasts)
		s.start()
	case outage:
		s.outages++
		// Another process holds the database: the journal has to take the records.
		db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "sessions.db")+"?_pragma=busy_timeout(5000)")
		if err != nil {
			s.t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		conn, err := db.Conn(s.t.Context())
		if err == nil {
			_, err = conn.ExecContext(s.t.Context(), "BEGIN EXCLUSIVE")
		}
		if err != nil {
			s.t.Fatal(err)
		}
		<-time.After(e.lasts)
		_, err = conn.ExecContext(s.t.Context(), "ROLLBACK")
		if err := errors.Join(err, conn.Close(), db.Close()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// settle waits until everything that was begun has ended: clients have left, and
// what is read on for them has its own time limits.
func (s *stage) settle() {
	for range 1200 {
		if s.sim.Totals().InFlight == 0 && s.srv.limits.InFlight() == 0 && s.srv.limits.Waiting() == 0 {
			break
		}
		<-time.After(time.Second)
	}
	// A full minute refills every bucket; three end every pause and probe.
	<-time.After(3 * time.Minute)
}

// An outcome is what a client saw.
type outcome struct {
	sent   bool // the request, whole
	status int  // 0: no answer
	header http.Header
	body   []byte
	err    error // of the answer's body; nil: a clean end
	left   bool  // the client gave up itself
}

// complete reports whether the client has what it would take for a whole,
// successful answer.
func (o *outcome) complete(c call) bool {
	if o.status != 200 || o.err != nil || o.left {
		return false
	}
	switch c.kind {
	case chatWhole, embedding:
		return json.Valid(o.body)
	case chatEvents, chatUsage, completionEvents:
		return bytes.HasSuffix(o.body, []byte("data: [DONE]\n\n"))
	case responseEvents:
		return bytes.Contains(o.body, []byte(`"type":"response.completed"`))
	}
	return true
}

// call makes one call as its client would.
func (s *stage) call(c call) (o outcome) {
	ctx, cancel := context.WithTimeout(s.t.Context(), c.timeout)
	defer cancel()
	if c.deed == leaveAfter {
		defer time.AfterFunc(c.after, cancel).Stop()
	}
	defer func() { o.left = o.left || ctx.Err() != nil }()
	if c.deed == nonsense || c.deed == shortBody || c.deed == halfClose {
		return s.raw(ctx, c)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.dial(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, c.method(), "http://127.0.0.1"+c.path(), strings.NewReader(c.body()))
	if err != nil {
		s.t.Error(err)
		return o
	}
	if c.body() == "" {
		req.Body = nil
	}
	for name, value := range c.headers() {
		req.Header.Set(name, value)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		o.err = err
		return o
	}
	defer resp.Body.Close()
	o.sent, o.status, o.header = true, resp.StatusCode, resp.Header
	var reader io.Reader = resp.Body
	switch c.deed {
	case leaveMid:
		o.body, o.err = io.ReadAll(io.LimitReader(resp.Body, int64(c.bytes)))
		o.left = true
		return o
	case readSlowly:
		reader = &slowReaderOf{resp.Body, c.bytes, c.after}
	case goDeaf:
		o.body, o.err = io.ReadAll(io.LimitReader(resp.Body, int64(c.bytes)))
		<-time.After(5 * time.Minute)
		rest, err := io.ReadAll(resp.Body)
		o.body, o.err = append(o.body, rest...), errors.Join(o.err, err)
		return o
	}
	o.body, o.err = io.ReadAll(reader)
	return o
}

type slowReaderOf struct {
	io.Reader
	piece int
	pause time.Duration
}

func (r *slowReaderOf) Read(p []byte) (int, error) {
	<-time.After(r.pause)
	return r.Reader.Read(p[:min(len(p), r.piece)])
}
