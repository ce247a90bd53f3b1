package provider_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

const hello = `{"model":"m","messages":[{"role":"user","content":"say 20 words"}]}`

// faultProxy returns a proxy before a provider, its base URL and a client without keep-alive.
func faultProxy(t *testing.T, cfg provider.Config) (*provider.Server, *provider.FaultProxy, string, *http.Client) {
	t.Helper()
	s, base := provider.Start(t, cfg)
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provider.NewFaultProxy(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, p, "http://" + p.Addr() + "/v1", &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// post returns the status, the body as far as it came and the error that ended it.
func post(t *testing.T, c *http.Client, base, body string) (int, string, error) {
	t.Helper()
	resp, err := c.Post(base+"/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestFaultProxy_Deeds(t *testing.T) {
	s, p, base, client := faultProxy(t, provider.Config{})
	status, whole, err := post(t, client, base, hello)
	if status != 200 || err != nil {
		t.Fatalf("undamaged: %d, %v", status, err)
	}
	t.Run("cut ends the body early", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Cut, After: 700})
		status, body, err := post(t, client, base, hello)
		if status != 200 || !errors.Is(err, io.ErrUnexpectedEOF) || len(body) >= len(whole) {
			t.Errorf("%d, %d bytes, %v", status, len(body), err)
		}
	})
	t.Run("reset is seen as one", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Reset, After: 700})
		if _, _, err := post(t, client, base, hello); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("error %v, want a reset", err)
		}
	})
	t.Run("half-close of the answer is an early end", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.HalfClose, After: 700})
		if _, _, err := post(t, client, base, hello); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("hold lets nothing pass until the client gives up", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Hold})
		impatient := *client
		impatient.Timeout = 50 * time.Millisecond
		if _, _, err := post(t, &impatient, base, hello); err == nil {
			t.Error("an answer came through")
		}
	})
	t.Run("a short hold delays", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Hold, After: 10, For: 30 * time.Millisecond})
		start := time.Now()
		if _, body, err := post(t, client, base, hello); err != nil || len(body) != len(whole) || time.Since(start) < 30*time.Millisecond {
			t.Errorf("after %v: %d bytes, %v", time.Since(start), len(body), err)
		}
	})
	t.Run("garbage after the status line is a protocol error", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Inject, After: 17, Garbage: []byte("\x00\x01garbage\r\n\r\n")})
		if _, _, err := post(t, client, base, hello); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("a trickle arrives whole", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Trickle, Piece: 64})
		if _, body, err := post(t, client, base, hello); err != nil || len(body) != len(whole) {
			t.Errorf("%d bytes, %v", len(body), err)
		}
	})
	t.Run("a request cut short reaches no account", func(t *testing.T) {
		p.Script(provider.Damage{Deed: provider.Cut, After: 150, Request: true})
		if _, _, err := post(t, client, base, strings.Replace(hello, `"m"`, `"short"`, 1)); err == nil {
			t.Error("answered")
		}
		s.Wait()
		for _, e := range s.Ledger() {
			if e.Model == "short" {
				t.Errorf("the ledger has %+v", e)
			}
		}
	})
	t.Run("down refuses and up serves at the same address", func(t *testing.T) {
		if err := p.Down(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := post(t, client, base, hello); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("error %v, want refused", err)
		}
		if err := p.Up(); err != nil {
			t.Fatal(err)
		}
		if status, _, err := post(t, client, base, hello); status != 200 || err != nil {
			t.Errorf("%d, %v", status, err)
		}
	})
}

func TestFaultProxy_HTTP2(t *testing.T) {
	s, p, base, _ := faultProxy(t, provider.Config{})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	for _, tt := range []struct {
		name string
		deed provider.Deed
	}{
		{"goaway", provider.GoAway}, {"refused stream", provider.RefuseStream},
	} {
		t.Run(tt.name+" is an error of its own where the body cannot be sent again", func(t *testing.T) {
			transport.CloseIdleConnections()
			p.Script(provider.Damage{Deed: tt.deed})
			before := s.Totals().Requests
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/chat/completions", io.NopCloser(strings.NewReader(hello)))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
				t.Error("answered")
			}
			if s.Totals().Requests != before {
				t.Error("the provider saw it")
			}
		})
		t.Run(tt.name+" is sent again by the transport where it can be", func(t *testing.T) {
			transport.CloseIdleConnections()
			p.Script(provider.Damage{Deed: tt.deed})
			if status, _, err := post(t, client, base, hello); status != 200 || err != nil {
				t.Errorf("%d, %v", status, err)
			}
			e := s.Ledger()
			if len(e) == 0 || e[len(e)-1].Proto != "HTTP/2.0" {
				t.Errorf("last entry %+v", e)
			}
		})
	}
}
