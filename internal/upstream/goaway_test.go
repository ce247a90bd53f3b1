package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// TestDo_HTTP2RefusalsWereNotSent has a provider on HTTP/2 that takes a request,
// its body included, and says that it has not processed it.
func TestDo_HTTP2RefusalsWereNotSent(t *testing.T) {
	for name, deed := range map[string]provider.Deed{"GOAWAY": provider.GoAway, "REFUSED_STREAM": provider.RefuseStream} {
		for _, body := range []string{"", `{"model":"m","messages":[]}`, strings.Repeat("x", 100_000)} {
			sim, base := provider.Start(t, provider.Config{})
			proxy, err := provider.NewFaultProxy(strings.TrimSuffix(strings.TrimPrefix(base, "http://"), "/v1"))
			if err != nil {
				t.Fatal(err)
			}
			proxy.Script(provider.Damage{Deed: deed})
			transport := NewTransport()
			transport.Protocols = new(http.Protocols)
			transport.Protocols.SetUnencryptedHTTP2(true)
			c := client(t, "http://"+proxy.Addr()+"/v1", func(cfg *Config) { cfg.Transport = transport })
			request := Request{Method: "POST", Path: "chat/completions", Body: []byte(body)}
			if body == "" {
				request = Request{Method: "GET", Path: "models"}
			}
			_, err = c.Do(context.Background(), request)
			if e := (*Error)(nil); !errors.As(err, &e) || e.Kind != NotSent {
				t.Errorf("%s, %d bytes: %v, want not sent", name, len(body), err)
			}
			if n := len(sim.Ledger()); n != 0 {
				t.Errorf("%s, %d bytes: sent again behind our back", name, len(body))
			}
			resp, err := c.Do(context.Background(), request)
			if err != nil {
				t.Fatalf("%s, %d bytes, the second attempt: %v", name, len(body), err)
			}
			if resp.ProtoMajor != 2 {
				t.Errorf("it was %s", resp.Proto)
			}
			resp.Body.Close()
			transport.CloseIdleConnections()
			if err := proxy.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
