package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger/pgtest"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// envPrevious names the programs of earlier releases, as a list of paths; .ci/upgrade builds them.
const envPrevious = "PREVIOUS_PROGRAMS"

// A release is upgraded without a stop, and rolled back. The program of the release before has to go on beside the new
// one, on the schema that this has migrated under it, and to start on it.
func TestUpgrade_SQLite(t *testing.T) {
	previous(t, func(t *testing.T, program string) { upgrade(t, program, sidecartest.SQLite(t)) })
}

func TestUpgrade_Postgres(t *testing.T) {
	previous(t, func(t *testing.T, program string) {
		upgrade(t, program, []string{"REPOSITORY_TYPE", "postgres", "POSTGRES_DSN", pgtest.DSN(t)})
	})
}

// The release before knows no owners of sessions: it shows a client's session under a key of its own, and what it writes is
// nobody's, whatever key a request came with.
func TestUpgrade_Clients(t *testing.T) {
	previous(t, func(t *testing.T, program string) {
		for name, store := range map[string]func(t *testing.T) []string{
			"sqlite": sidecartest.SQLite,
			"postgres": func(t *testing.T) []string {
				return []string{"REPOSITORY_TYPE", "postgres", "POSTGRES_DSN", pgtest.DSN(t)}
			},
		} {
			t.Run(name, func(t *testing.T) {
				upgradeClients(t, program, append(store(t), "CLIENT_API_KEYS", "alice=a-key", "ADMIN_API_KEYS", "r-key"))
			})
		}
	})
}

func upgradeClients(t *testing.T, program string, settings []string) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	u := &upgrading{t: t, base: base, settings: settings}
	ask := func(p *sidecartest.Process, n int) {
		for range n {
			wantAnswered(t, sidecartest.Send(t, "POST", p.URL+"/v1/session/a/chat/completions", sidecartest.Chat, bearer("a-key")...))
		}
	}
	sees := func(when string, p *sidecartest.Process, key, want string) {
		t.Helper()
		if got := byID(sidecartest.Send(t, "GET", p.URL+"/sessions/status", "", bearer(key)...).Body); got != want {
			t.Errorf("%s: %s shows %s, want %s", when, key, got, want)
		}
	}
	before := u.start(program)
	ask(before, 2)
	after := u.start("")
	ask(after, 3)
	ask(before, 1)
	sees("the new one beside the old", after, "a-key", "a/3")
	sees("the new one beside the old", after, "r-key", "a/6")
	sees("the old one beside the new", before, "a-key", "a/3 alice/a/3")
	u.end(before)
	u.end(after)

	back := u.start(program)
	ask(back, 1)
	sees("rolled back", back, "a-key", "a/4 alice/a/3")
	u.end(back)

	forward := u.start("")
	ask(forward, 1)
	sees("upgraded again", forward, "a-key", "a/4")
	sees("upgraded again", forward, "r-key", "a/8")
	if got := listed("requests", "client")(sidecartest.Send(t, "GET", forward.URL+"/sessions/a/requests", "", bearer("a-key")...).Body); got != "alice alice alice alice" {
		t.Errorf("alice's rows: %s", got)
	}
	u.end(forward)
}

func previous(t *testing.T, test func(*testing.T, string)) {
	list := os.Getenv(envPrevious)
	if list == "" {
		t.Skip(envPrevious + " names no program; .ci/upgrade builds them")
	}
	for _, program := range filepath.SplitList(list) {
		t.Run(filepath.Base(program), func(t *testing.T) { test(t, program) })
	}
}

// An upgrading is one store, the programs on it, and what clients were told that they used.
type upgrading struct {
	t        *testing.T
	base     string
	settings []string

	mu     sync.Mutex
	rows   int // of session "a"
	tokens int64
}

func upgrade(t *testing.T, program string, settings []string) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	u := &upgrading{t: t, base: base, settings: settings}
	before := u.start(program)
	u.ask(before, 3)

	after := u.start("")
	u.both(before, after)
	u.check("beside the running release before", before, after)

	u.end(before)
	again := u.start(program)
	u.both(again, after)
	u.check("beside the release before, started on the new schema", again, after)
	u.end(again)

	// A rollback: the new one is gone, and the release before is alone.
	u.end(after)
	back := u.start(program)
	u.ask(back, 3)
	u.check("rolled back", back)
	if a := sidecartest.Send(t, "POST", back.URL+"/v1/session/gone/chat/completions", sidecartest.Chat); a.StatusCode != 200 {
		t.Errorf("status %d %s", a.StatusCode, a.Body)
	}
	if a := sidecartest.Send(t, "DELETE", back.URL+"/sessions/a", ""); a.StatusCode != 204 { // with rows of the newer one
		t.Errorf("delete: status %d %s", a.StatusCode, a.Body)
	}
	u.rows, u.tokens = 0, 0
	u.ask(back, 2)
	u.end(back)

	forward := u.start("")
	u.ask(forward, 2)
	u.check("upgraded again", forward)
	u.end(forward)
}

func (u *upgrading) start(program string) *sidecartest.Process {
	u.t.Helper()
	journal := filepath.Join(u.t.TempDir(), "j.spill")
	p := sidecartest.Launch{Program: program}.Start(u.t, u.base, append([]string{"LEDGER_JOURNAL", journal}, u.settings...)...)
	p.URL = "http://" + p.Serving(u.t)
	return p
}

// end ends a program, which must not have had to say that its ledger failed.
func (u *upgrading) end(p *sidecartest.Process) {
	u.t.Helper()
	if err := p.Signal(u.t, syscall.SIGTERM); err != nil {
		u.t.Errorf("the program ended with %v", err)
	}
	for _, word := range []string{`"level":"ERROR"`, "journal", "degraded"} {
		for line := range strings.Lines(p.Log.String()) {
			if strings.Contains(line, word) && !strings.Contains(line, `"level":"INFO"`) {
				u.t.Errorf("it said %s", line)
			}
		}
	}
}

// ask makes requests of session "a", one after another.
func (u *upgrading) ask(p *sidecartest.Process, n int) {
	for range n {
		a, err := sidecartest.Try(u.t.Context(), "POST", p.URL+"/v1/session/a/chat/completions", sidecartest.Chat)
		var body struct {
			Usage struct {
				TotalTokens int64 `json:"total_tokens"`
			}
		}
		if err != nil || a.StatusCode != 200 || json.Unmarshal([]byte(a.Body), &body) != nil || body.Usage.TotalTokens == 0 {
			u.t.Errorf("%+v, %v", a, err)
			return
		}
		u.mu.Lock()
		u.rows++
		u.tokens += body.Usage.TotalTokens
		u.mu.Unlock()
	}
}

// both makes requests through two programs at the same time.
func (u *upgrading) both(one, other *sidecartest.Process) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { u.ask(one, 5) })
		wg.Go(func() { u.ask(other, 5) })
	}
	wg.Wait()
}

// check demands that each program reads all that both have written.
func (u *upgrading) check(when string, programs ...*sidecartest.Process) {
	u.t.Helper()
	for i, p := range programs {
		read := func(path string, into any) {
			u.t.Helper()
			a := sidecartest.Send(u.t, "GET", p.URL+path, "")
			if err := json.Unmarshal([]byte(a.Body), into); err != nil || a.StatusCode != 200 {
				u.t.Fatalf("%s: %s: %d %s", when, path, a.StatusCode, a.Body)
			}
		}
		var status struct {
			RequestCount int   `json:"request_count"`
			TotalTokens  int64 `json:"total_tokens"`
		}
		read("/sessions/a/status", &status)
		var page struct {
			Requests []struct {
				Prompt     int64 `json:"prompt_tokens"`
				Completion int64 `json:"completion_tokens"`
			}
		}
		read("/sessions/a/requests?limit=500", &page)
		var usage struct {
			Rows []struct {
				Prompt     int64 `json:"prompt_tokens"`
				Completion int64 `json:"completion_tokens"`
			}
		}
		read("/usage?session=a&by=model", &usage)
		var ofRows, ofUsage int64
		for _, r := range page.Requests {
			ofRows += r.Prompt + r.Completion
		}
		for _, r := range usage.Rows {
			ofUsage += r.Prompt + r.Completion
		}
		want := fmt.Sprintf("%d requests of %d tokens", u.rows, u.tokens)
		got := fmt.Sprintf("%d requests of %d tokens", len(page.Requests), ofRows)
		if got != want || status.RequestCount != u.rows || status.TotalTokens != u.tokens || ofUsage != u.tokens {
			u.t.Errorf("%s: program %d reads %s, a total of %+v and a usage of %d; want %s", when, i, got, status, ofUsage, want)
		}
		if a := sidecartest.Send(u.t, "GET", p.URL+"/readyz", ""); !strings.Contains(a.Body, `"ok"`) {
			u.t.Errorf("%s: %s", when, a.Body)
		}
	}
}
