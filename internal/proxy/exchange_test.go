package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/wire"
)

func TestLeave_TakesNothingAfterTheEnd(t *testing.T) {
	p := &Proxy{}
	for _, first := range []string{"leave", "end"} {
		x := &exchange{p: p, req: request{cfg: &config.Config{DisconnectPolicy: "drain"}, r: &http.Request{}, endpoint: wire.Chat}}
		x.cancel = func(error) {}
		x.sent.Store(true)
		if first == "end" {
			x.settleDrain()
			x.leave()
		} else {
			x.leave()
			x.settleDrain()
		}
		if n := p.drains.Load(); n != 0 {
			t.Errorf("%s first: %d drains left over", first, n)
		}
	}
}

// TestBeat_BesideALateInterimAnswer is for the race detector: what an attempt's
// connection brings may come when the next attempt is waited for.
func TestBeat_BesideALateInterimAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{w: w, r: r}
		var late sync.WaitGroup
		late.Go(func() {
			for range 10 {
				a.interim(103, http.Header{"Link": {"</a>"}})
			}
		})
		if err := a.beat(); err != nil {
			t.Error(err)
		}
		late.Wait()
	}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(text) != " \n" || resp.Header.Get("Link") != "" {
		t.Errorf("%d %q %v %v", resp.StatusCode, text, resp.Header, err)
	}
}
