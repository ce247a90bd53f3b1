package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// The crash tests run the real program as a process of its own, between twenty clients and the
// simulated provider, and kill it with SIGKILL under load, again and again, on one store. The
// witnesses are the clients, who know which answers they have whole, and the provider's own
// ledger, which knows what each of them cost.
//
// A request is known to all three by its session and its model, which no other request
// shares: the client chose them, the provider saw them, and the row holds them.

var crashRounds = flag.Int("crash.rounds", 25, "kills of the sidecar at each level of durability")

// crashClients is how many clients ask at once.
const crashClients = 20

// longEvery is how often a round waits until requests in flight are noted in the store.
const longEvery = 8

type requestKey struct{ session, model string }

// billed is what the provider's ledger says of one request.
type billed struct {
	prompt, cached, completion int64
}

// A crashRun is one store, and all that the witnesses know about it.
type crashRun struct {
	t        *testing.T
	settings []string
	database func() *sql.DB // opens the store beside the program
	check    func(*sql.DB)  // of the file itself, nil = none
	shared   bool           // by several processes: leftovers of the dead are booked after a while, not at once

	complete map[requestKey]bool // the client has the whole answer
	seen     map[requestKey]billed
	noted    map[requestKey]bool // was in the table of requests in flight at the kill
	rows     map[requestKey]crashRow

	lost                 int
	interrupted, unknown int
	unseen               int // rows of clients that left while the request was being written
}

// Outcomes as they are stored.
const (
	outcomeGone        = int64(ledger.ClientGone)
	outcomeInterrupted = int64(ledger.Interrupted)
)

type crashRow struct {
	outcome, status    int64
	prompt, completion sql.NullInt64
}

func newCrashRun(t *testing.T, settings []string, database func() *sql.DB) *crashRun {
	return &crashRun{
		t: t, settings: settings, database: database, complete: map[requestKey]bool{}, seen: map[requestKey]billed{},
		noted: map[requestKey]bool{},
	}
}

func sqliteCrashRun(t *testing.T, durability string) *crashRun {
	path := filepath.Join(t.TempDir(), "sessions.db")
	settings := []string{"REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", path, "LEDGER_DURABILITY", durability}
	c := newCrashRun(t, settings, func() *sql.DB {
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=query_only(1)")
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
	c.check = func(db *sql.DB) {
		var verdict string
		if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
			t.Fatalf("integrity check: %q, %v", verdict, err)
		}
	}
	return c
}

// round starts the program, has it work under load, ends it with sig, starts it again, and looks for all
// that the clients have. The second process ends as users' do.
func (c *crashRun) round(n int, sig syscall.Signal) {
	t := c.t
	t.Helper()
	sim := provider.New(provider.Config{
		Keys: []string{"sk-upstream-canary"}, Seed: uint64(n), TTFT: time.Millisecond, TokenInterval: 500 * time.Microsecond, Jitter: 0.9,
	})
	upstream, closeSim, err := sim.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := sidecartest.StartProcess(t, upstream, c.settings...)
	load := newCrashLoad(p.URL, n)
	if sig == syscall.SIGKILL && n%longEvery == longEvery-1 {
		c.waitForNotes(load)
	} else {
		load.waitFor(1 + rand.IntN(150))
	}
	exit := p.Signal(t, sig)
	complete := load.stop()
	if sig == syscall.SIGTERM && exit != nil {
		t.Errorf("SIGTERM: exit %v\n%s", exit, p.Log)
	}
	if strings.Contains(p.Log.String(), `"level":"ERROR"`) {
		t.Errorf("the log has errors:\n%s", p.Log)
	}
	if err := closeSim(); err != nil {
		t.Error(err)
	}
	sim.Wait()
	for key := range complete {
		c.complete[key] = true
	}
	accepted := map[requestKey]bool{}
	for _, e := range sim.Ledger() {
		if e.Model == "" {
			continue // its body broke off: the provider took nothing in, and its row counts as left
		}
		key := requestKey{e.Header.Get("X-Witness-Session"), e.Model}
		if _, twice := c.seen[key]; twice {
			t.Errorf("round %d: the provider was asked twice for %v", n, key)
		}
		c.seen[key] = billed{e.PromptTokens, e.CachedTokens, e.CompletionTokens}
		accepted[key] = true
	}

	// The next process books what the killed one left behind.
	p = sidecartest.StartProcess(t, upstream, c.settings...)
	c.verify()
	if sig == syscall.SIGTERM { // then nothing at all may be missing, complete or not
		for key := range accepted {
			if row, ok := c.rows[key]; !ok || row.outcome == outcomeInterrupted {
				t.Errorf("round %d: %v was sent upstream; its row: %+v, %v", n, key, row, ok)
			}
		}
	}
	if err := p.Signal(t, syscall.SIGTERM); err != nil {
		t.Errorf("exit %v\n%s", err, p.Log)
	}
}

// waitForNotes waits until every request that takes long is noted in the store.
func (c *crashRun) waitForNotes(load *crashLoad) {
	c.t.Helper()
	db := c.database()
	defer db.Close()
	end := time.After(time.Minute)
	for {
		noted := map[requestKey]bool{}
		rows, err := db.QueryContext(c.t.Context(), "SELECT session, model FROM inflight")
		if err != nil {
			c.t.Fatal(err)
		}
		defer rows.Close() // it is closed by then, unless a row fails
		for rows.Next() {
			var key requestKey
			if err := rows.Scan(&key.session, &key.model); err != nil {
				c.t.Fatal(err)
			}
			if strings.HasPrefix(key.model, "long-") && strings.HasPrefix(key.session, load.prefix()) {
				noted[key] = true
			}
		}
		if err := rows.Err(); err != nil {
			c.t.Fatal(err)
		}
		if len(noted) == crashLong {
			for key := range noted {
				c.noted[key] = true
			}
			return
		}
		select {
		case <-time.After(20 * time.Millisecond): // two processes share nothing but the store
		case <-end:
			c.t.Fatalf("%d of %d requests in flight are noted after a minute", len(noted), crashLong)
		}
	}
}

// verify compares all rows with what the witnesses know; lost answers are counted, everything else is an error at
// once. It reads one snapshot, for the program is running.
func (c *crashRun) verify() {
	t := c.t
	t.Helper()
	db := c.database()
	defer db.Close()
	if c.check != nil {
		c.check(db)
	}
	options := &sql.TxOptions{ReadOnly: true}
	if c.shared {
		options.Isolation = sql.LevelRepeatableRead
	}
	tx, err := db.BeginTx(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	c.readRows(tx)
	c.lost = 0
	for key := range c.complete {
		if row, ok := c.rows[key]; !ok || !row.prompt.Valid {
			c.lost++
		}
	}
	for key := range c.noted {
		row, ok := c.rows[key]
		if ok && (row.outcome != outcomeInterrupted || row.prompt.Valid) || !ok && !c.shared {
			t.Errorf("%v was noted in flight; its row: %+v, %v; want it interrupted", key, row, ok)
		}
	}
	c.sums(tx)
}

// readRows reads every row, and demands that each is the only one of a request that the provider knows.
func (c *crashRun) readRows(tx *sql.Tx) {
	t := c.t
	t.Helper()
	c.rows = map[requestKey]crashRow{}
	c.unseen, c.unknown, c.interrupted = 0, 0, 0
	rows, err := tx.QueryContext(t.Context(), "SELECT session, model, outcome, status, prompt_tokens, completion_tokens FROM request_log")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key requestKey
		var row crashRow
		if err := rows.Scan(&key.session, &key.model, &row.outcome, &row.status, &row.prompt, &row.completion); err != nil {
			t.Fatal(err)
		}
		if _, double := c.rows[key]; double {
			t.Errorf("%v has two rows", key)
		}
		c.rows[key] = row
		known, sent := c.seen[key]
		switch {
		case !sent && row.outcome == outcomeGone && row.status == 0 && !row.prompt.Valid:
			c.unseen++ // whether it arrives was open when the client left
		case !sent:
			t.Errorf("%v has a row, and the provider never saw it", key)
		case row.prompt.Valid && (row.prompt.Int64 != known.prompt || row.completion.Int64 != known.completion):
			t.Errorf("%v is booked with %d + %d tokens; the provider counts %+v", key, row.prompt.Int64, row.completion.Int64, known)
		}
		if !row.prompt.Valid {
			c.unknown++
		}
		if row.outcome == outcomeInterrupted {
			c.interrupted++
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// sums demands that sessions and both rollups add up to the rows.
func (c *crashRun) sums(db *sql.Tx) {
	t := c.t
	t.Helper()
	const counted = "metered <> 0 AND status BETWEEN 200 AND 299"
	tables := map[string]string{
		"rows": "SELECT count(CASE WHEN " + counted + " THEN 1 END), count(CASE WHEN metered <> 0 AND prompt_tokens IS NULL AND (status = 0 OR " + counted + ") THEN 1 END), " +
			"sum(prompt_tokens), sum(completion_tokens) FROM requests",
		"sessions": "SELECT sum(requests), sum(unknown), sum(prompt_tokens), sum(completion_tokens) FROM sessions",
		"hourly":   "SELECT sum(requests), sum(unknown), sum(prompt_tokens), sum(completion_tokens) FROM usage_hourly",
		"daily":    "SELECT sum(requests), sum(unknown), sum(prompt_tokens), sum(completion_tokens) FROM usage_daily",
	}
	sums := map[string][4]int64{}
	for name, query := range tables {
		var n [4]sql.NullInt64
		if err := db.QueryRowContext(t.Context(), query).Scan(&n[0], &n[1], &n[2], &n[3]); err != nil {
			t.Fatal(err)
		}
		sums[name] = [4]int64{n[0].Int64, n[1].Int64, n[2].Int64, n[3].Int64}
	}
	for name, got := range sums {
		if got != sums["rows"] {
			t.Errorf("%s add up to %v, rows to %v", name, got, sums["rows"])
		}
	}
	// Session by session, from the rows as this test read them.
	type total struct{ requests, unknown, prompt, completion int64 }
	want := map[string]total{}
	for key, row := range c.rows {
		s := want[key.session]
		ok := row.status >= 200 && row.status <= 299
		if ok {
			s.requests++
		}
		if !row.prompt.Valid && (ok || row.status == 0) {
			s.unknown++
		}
		s.prompt += row.prompt.Int64
		s.completion += row.completion.Int64
		want[key.session] = s
	}
	rows, err := db.QueryContext(t.Context(), "SELECT key, requests, unknown, prompt_tokens, completion_tokens FROM sessions")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	sessions := 0
	for rows.Next() {
		var key string
		var got total
		if err := rows.Scan(&key, &got.requests, &got.unknown, &got.prompt, &got.completion); err != nil {
			t.Fatal(err)
		}
		sessions++
		if got != want[key] {
			t.Errorf("session %s: %+v; its rows add up to %+v", key, got, want[key])
		}
	}
	if err := rows.Err(); err != nil || sessions != len(want) {
		t.Errorf("%d sessions, %v; rows of %d", sessions, err, len(want))
	}
}

// report says what was proven, and fails where an answer has no row.
func (c *crashRun) report(rounds int) {
	c.t.Helper()
	if c.lost > 0 {
		c.t.Errorf("%d of %d complete answers have no row with their usage", c.lost, len(c.complete))
	}
	if len(c.complete) < rounds {
		c.t.Errorf("%d complete answers in %d rounds prove nothing", len(c.complete), rounds)
	}
	c.t.Logf("%d rounds: %d complete answers, %d lost; %d rows, none double, of %d requests to the provider; %d interrupted, %d of unknown usage, %d left while being sent",
		rounds, len(c.complete), c.lost, len(c.rows), len(c.seen), c.interrupted, c.unknown, c.unseen)
}

// crashLong is how many of the clients send one request that outlasts its round.
const crashLong = 4

// A crashLoad is what the clients of one round do.
type crashLoad struct {
	url    string
	round  int
	client *http.Client
	ctx    context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	complete map[requestKey]bool
	enough   chan struct{} // a token per complete answer
}

func newCrashLoad(url string, round int) *crashLoad {
	l := &crashLoad{
		url: url, round: round, complete: map[requestKey]bool{}, enough: make(chan struct{}, 1<<16),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * crashClients}},
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	for i := range crashClients {
		l.wg.Go(func() { l.work(i) })
	}
	if round%longEvery == longEvery-1 {
		for i := range crashLong {
			l.wg.Go(func() {
				l.ask(requestKey{fmt.Sprintf("%sc%02d", l.prefix(), i), fmt.Sprintf("long-%d", i)}, crashShapes[i%2], 60_000, false)
			})
		}
	}
	return l
}

// prefix is what the sessions of the round have in common.
func (l *crashLoad) prefix() string { return fmt.Sprintf("r%04d-", l.round) }

// WaitFor returns after n complete answers and a moment more: a kill at no chosen instant.
func (l *crashLoad) waitFor(n int) {
	for range n {
		<-l.enough
	}
	<-time.After(rand.N(3 * time.Millisecond))
}

// stop ends the clients, whose sidecar is gone, and returns what they have.
func (l *crashLoad) stop() map[requestKey]bool {
	l.end()
	l.wg.Wait()
	l.client.CloseIdleConnections()
	return l.complete
}

// work asks one question after another until the sidecar is gone.
func (l *crashLoad) work(client int) {
	session := fmt.Sprintf("%sc%02d", l.prefix(), client)
	for n := 0; ; n++ {
		words := 1 + rand.IntN(40)
		key := requestKey{session, fmt.Sprintf("m-%04d", n)}
		if !l.ask(key, crashShapes[rand.IntN(len(crashShapes))], words, rand.IntN(6) == 0) {
			return
		}
	}
}

// A crashShape is a way to ask, and how the end of its answer is known.
type crashShape struct {
	path, body, end string // body: model, words; end "" = the whole JSON body
}

var crashShapes = []crashShape{
	{"chat/completions", `{"model":%q,"stream":true,"messages":[{"role":"user","content":"say %d words"}]}`, "data: [DONE]\n"},
	{"chat/completions", `{"model":%q,"messages":[{"role":"user","content":"say %d words"}]}`, ""},
	{"chat/completions", `{"model":%q,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"say %d words"}]}`, "data: [DONE]\n"},
	{"responses", `{"model":%q,"stream":true,"input":"say %d words"}`, "event: response.completed\n"},
	{"responses", `{"model":%q,"input":"say %d words"}`, ""},
	{"completions", `{"model":%q,"stream":true,"prompt":"say %d words"}`, "data: [DONE]\n"},
	{"embeddings", `{"model":%q,"input":"say %d words"}`, ""},
}

// ask sends one request, and notes its answer once it is complete. leave hangs up halfway. False means
// that the sidecar is gone.
func (l *crashLoad) ask(key requestKey, shape crashShape, words int, leave bool) bool {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	url := l.url + "/v1/" + shape.path
	if words%2 == 0 {
		url = l.url + "/v1/session/" + key.session + "/" + shape.path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(fmt.Sprintf(shape.body, key.model, words)))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Witness-Session", key.session)
	if words%2 == 1 {
		req.Header.Set("X-Session-Id", key.session)
	}
	if leave && words%3 == 0 { // before there is an answer
		time.AfterFunc(rand.N(2*time.Millisecond), cancel)
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return leave && l.ctx.Err() == nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return l.ctx.Err() == nil
	}
	var got []byte
	chunk := make([]byte, 4096)
	for {
		n, err := resp.Body.Read(chunk)
		got = append(got, chunk[:n]...)
		if shape.complete(got) {
			l.mu.Lock()
			l.complete[key] = true
			l.mu.Unlock()
			l.enough <- struct{}{}
			_, _ = io.Copy(io.Discard, resp.Body)
			return true
		}
		if err != nil {
			return false
		}
		if leave && len(got) > 100 {
			return true
		}
	}
}

// complete tells whether the client has all of an answer, whether or not its connection ended well.
func (s crashShape) complete(got []byte) bool {
	if s.end == "" {
		return json.Valid(got)
	}
	i := bytes.LastIndex(got, []byte(s.end))
	return i >= 0 && bytes.HasSuffix(got, []byte("\n\n"))
}

func TestCrash_KillLosesNothing(t *testing.T) {
	for _, durability := range []string{"full", "normal"} {
		t.Run(durability, func(t *testing.T) {
			c := sqliteCrashRun(t, durability)
			c.rounds(syscall.SIGKILL, *crashRounds)
		})
	}
}

func (c *crashRun) rounds(sig syscall.Signal, n int) {
	c.t.Helper()
	if testing.Short() {
		n = min(n, longEvery)
	}
	for i := range n {
		c.round(i, sig)
		if c.t.Failed() {
			break
		}
	}
	if c.shared && !c.t.Failed() {
		c.settle()
	}
	c.report(n)
	if c.interrupted == 0 && sig == syscall.SIGKILL {
		c.t.Error("no request was seen as interrupted")
	}
}

// settle waits until what dead processes had in flight is booked.
func (c *crashRun) settle() {
	c.t.Helper()
	p := sidecartest.StartProcess(c.t, "http://127.0.0.1:9/v1", c.settings...)
	missing := func() (n int) {
		c.verify()
		for key := range c.noted {
			if _, ok := c.rows[key]; !ok {
				n++
			}
		}
		return n
	}
	for end := time.After(2 * time.Minute); missing() > 0; {
		select {
		case <-time.After(time.Second): // other processes decide
		case <-end:
			c.t.Fatalf("%d requests of dead processes are not booked", missing())
		}
	}
	if err := p.Signal(c.t, syscall.SIGTERM); err != nil {
		c.t.Errorf("exit %v\n%s", err, p.Log)
	}
}

func TestCrash_KillLosesNothingInPostgres(t *testing.T) {
	dsn := pgtest.DSN(t)
	settings := []string{
		"REPOSITORY_TYPE", "postgres", "POSTGRES_DSN", dsn, "LEDGER_JOURNAL", filepath.Join(t.TempDir(), "journal"),
	}
	c := newCrashRun(t, settings, func() *sql.DB {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
	c.shared = true
	c.rounds(syscall.SIGKILL, *crashRounds)
}

func TestCrash_SIGTERMLosesNothing(t *testing.T) {
	c := sqliteCrashRun(t, "full")
	c.rounds(syscall.SIGTERM, 5)
}

// Without waiting for the store the promise cannot hold; and a test that cannot see that proves nothing.
func TestCrash_KillLosesWithAsync(t *testing.T) {
	c := sqliteCrashRun(t, "async")
	for n := range 60 {
		c.round(n, syscall.SIGKILL)
		if c.lost > 0 {
			t.Logf("round %d: %d of %d complete answers have no row", n, c.lost, len(c.complete))
			return
		}
	}
	t.Error("no answer was ever lost: this test cannot see a loss")
}
