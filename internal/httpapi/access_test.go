package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The whole policy of docs/access.md: every audience, by every kind of caller, on every kind of listener, under every
// combination of keys. What is answered is the status, or what the caller sees.
func TestAccess_WhoSeesWhat(t *testing.T) {
	clients, admins := []Key{{"alice", "a-key"}, {"bob", "b-key"}, {"bob", "b-new"}}, []Key{{"root", "r-key"}, {"ops", "b-key"}}
	listeners := []struct {
		name  string
		on    Listener
		local bool
	}{{"main", MainListener, false}, {"main on loopback", MainListener, true}, {"admin", AdminListener, false}, {"admin on loopback", AdminListener, true}}
	callers := []struct{ name, key string }{{"nobody", ""}, {"a wrong key", "x"}, {"alice", "a-key"}, {"root", "r-key"}}

	const own, totals, all = "own", "totals", "everything"
	// One row for each audience, by callers; one table for each state of the keys and listener.
	for _, c := range []struct {
		clients, admins bool
		listener        string // of the above, "*" for those that no row before names
		clientsRow      string
		ownersRow       string
		operatorsRow    string
	}{
		{false, false, "*", "own own own own", "all all all all", "all all all all"},
		{true, false, "admin", "401 401 own 401", "401 401 totals 401", "401 401 totals 401"},
		{true, false, "admin on loopback", "401 401 own 401", "all all all all", "all all all all"},
		{true, false, "*", "401 401 own 401", "401 401 own 401", "401 401 own 401"},
		{false, true, "*", "own own own own", "401 401 401 all", "401 401 401 all"},
		{true, true, "*", "401 401 own 401", "401 401 own all", "401 401 403 all"},
	} {
		for _, l := range listeners {
			if c.listener != l.name && !(c.listener == "*" && !(c.clients && !c.admins && l.on == AdminListener)) {
				continue
			}
			access := Access{}
			if c.clients {
				access.Keys = clients
			}
			if c.admins {
				access.Admins = admins
			}
			for to, row := range map[Audience]string{ToClients: c.clientsRow, ToOwners: c.ownersRow, ToOperators: c.operatorsRow, ToAnybody: "own own own own"} {
				for i, want := range strings.Fields(strings.ReplaceAll(row, "all", all)) {
					name := fmt.Sprintf("clients %v, admins %v, %s, audience %d, %s", c.clients, c.admins, l.name, to, callers[i].name)
					if got := asked(t, access, to, l.on, l.local, callers[i].key); got.seen != want {
						t.Errorf("%s: got %s, want %s", name, got.seen, want)
					}
				}
			}
		}
	}

	both := Access{Keys: clients, Admins: admins}
	for key, want := range map[string]answer{
		"a-key": {own, "alice", "alice"},
		"b-key": {all, "bob", "bob"}, // a client who is an admin, too
		"b-new": {own, "bob", "bob"}, // the same client by its next key
		"r-key": {all, "root", ""},
	} {
		if got := asked(t, both, ToOwners, MainListener, false, key); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
	if got := asked(t, Access{Admins: admins}, ToClients, MainListener, false, "r-key"); got != (answer{own, "192.0.2.1", ""}) {
		t.Errorf("an admin is the client %v where there are no clients' keys, want its address", got)
	}
	if got := asked(t, Access{}, ToClients, MainListener, false, "a-key"); got != (answer{own, "192.0.2.1", ""}) {
		t.Errorf("without keys a caller is %v, want its address, and no owner", got)
	}
}

type answer struct{ seen, name, owner string }

// asked sends one request to a guarded route.
func asked(t *testing.T, access Access, to Audience, on Listener, local bool, key string) (got answer) {
	t.Helper()
	g := NewGuard(access, slog.New(slog.DiscardHandler), func(string) {})
	route := Route{Pattern: "/x", On: on, To: to, Handler: func(_ http.ResponseWriter, _ *http.Request, who Caller) error {
		got = answer{[]string{"own", "totals", "everything"}[who.Sees], who.Name, who.Owner()}
		return nil
	}}
	r := httptest.NewRequestWithContext(t.Context(), "GET", "http://localhost/x", nil)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	w := httptest.NewRecorder()
	g.Handler([]Route{route}, on, local).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		got.seen = fmt.Sprint(w.Code)
	}
	return got
}
