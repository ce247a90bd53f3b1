package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// What docs/deployment.md advises for nginx, and the worst that an nginx may be
// told, in front of the sidecar. .ci/nginx runs these; it sets NGINX_PROGRAM.

// documented is the page's configuration, for the given addresses.
func documented(t *testing.T, listen, sidecar string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```nginx\n(.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("docs/deployment.md has no configuration for nginx")
	}
	text := string(block[1])
	for from, to := range map[string]string{"listen 80;": "listen " + listen + ";", "127.0.0.1:8080": sidecar} {
		if strings.Count(text, from) != 1 {
			t.Fatalf("the page has %q %d times", from, strings.Count(text, from))
		}
		text = strings.Replace(text, from, to, 1)
	}
	return text
}

// careless is Debian's configuration with nothing but proxy_pass, and everything
// compressed.
func careless(_ *testing.T, listen, sidecar string) string {
	return fmt.Sprintf(`
gzip on;
gzip_types *;
gzip_min_length 0;
gzip_proxied any;
server {
	listen %s;
	location / {
		proxy_pass http://%s;
	}
}`, listen, sidecar)
}

// nginx runs the real one and returns its base URL.
func nginx(t *testing.T, sites func(t *testing.T, listen, sidecar string) string, sidecar string) string {
	t.Helper()
	program := os.Getenv("NGINX_PROGRAM")
	if program == "" {
		t.Skip("NGINX_PROGRAM names none; .ci/nginx installs and names one")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	dir := t.TempDir()
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	text := fmt.Sprintf("daemon off;\nmaster_process off;\npid %s/pid;\nerror_log stderr notice;\nevents {}\nhttp {\naccess_log off;\n%s%s\n}\n",
		dir, temporary, sites(t, address, strings.TrimPrefix(sidecar, "http://")))
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", config)
	log := &strings.Builder{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nginx:\n%s", log)
		}
	})
	for range 500 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return "http://" + address
		}
		<-time.After(20 * time.Millisecond) // it does not say when it listens
	}
	t.Fatal("nginx does not listen")
	return ""
}

// fronts are the configurations, each with the sidecar's settings that go with it.
var fronts = []struct {
	name  string
	sites func(t *testing.T, listen, sidecar string) string
}{{"documented", documented}, {"careless", careless}}

// through sends a request to nginx as a client somewhere else would.
func through(t *testing.T, ctx context.Context, url, body string, headers ...string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "llm.example.com"
	for name, value := range sidecartest.Pairs(headers) {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		t.Cleanup(func() { resp.Body.Close() })
	}
	return resp, err
}

func TestNginx_EventsAreLive(t *testing.T) {
	for _, front := range fronts {
		for _, coding := range []string{"identity", "gzip"} {
			t.Run(front.name+" "+coding, func(t *testing.T) {
				up, base := sidecartest.NewStepwise(t)
				s := start(t, base, "ALLOWED_HOSTS", "llm.example.com,127.0.0.1")
				url := nginx(t, front.sites, s.URL)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // events that are held back never come
				defer cancel()
				resp, err := through(t, ctx, url+"/v1/chat/completions", sidecartest.ChatStream, "Accept-Encoding", coding, "X-Session-Id", "behind.nginx:1")
				if err != nil {
					t.Fatal(err)
				}
				var body io.Reader = resp.Body
				up.Pieces <- eventA
				if resp.Header.Get("Content-Encoding") == "gzip" {
					if body, err = gzip.NewReader(resp.Body); err != nil {
						t.Fatal(err)
					}
				}
				if got := sidecartest.Read(t, body, len(eventA)); got != eventA {
					t.Fatalf("first event %q", got)
				}
				up.Pieces <- eventB
				if got := sidecartest.Read(t, body, len(eventB)); got != eventB {
					t.Fatalf("second event %q", got)
				}
				up.Pieces <- usageEv
				up.Pieces <- doneEvent
				close(up.Pieces)
				if rest, err := io.ReadAll(body); err != nil || string(rest) != doneEvent {
					t.Errorf("end %q, %v", rest, err)
				}
				if got := s.Status()["behind.nginx:1"]; got != totals("behind.nginx:1", 7, 2, 1) {
					t.Errorf("booked %+v", got)
				}
			})
		}
	}
}

func TestNginx_TruncatedAnswersAreCutOff(t *testing.T) {
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			_, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{provider.ResetAfterBytes(1000)}})
			s := start(t, base, "ALLOWED_HOSTS", "llm.example.com,127.0.0.1")
			resp, err := through(t, t.Context(), nginx(t, front.sites, s.URL)+"/v1/chat/completions", sidecartest.ChatStream, "Accept-Encoding", "identity")
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(string(body), "[DONE]") {
				t.Errorf("read %q, %v; want an unexpected end", body, err)
			}
		})
	}
}

func TestNginx_ClientThatLeavesTheQueueIsNoticed(t *testing.T) {
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			up, base := sidecartest.NewStepwise(t)
			s := start(t, base, "ALLOWED_HOSTS", "llm.example.com,127.0.0.1", "MAX_CONCURRENT_REQUESTS", "1")
			url := nginx(t, front.sites, s.URL) + "/v1/chat/completions"
			first, err := through(t, t.Context(), url, sidecartest.ChatStream)
			if err != nil {
				t.Fatal(err)
			}
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() {
				_, err := through(t, ctx, url, sidecartest.ChatStream)
				left <- err
			}()
			s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 1 })
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the second got %v", err)
			}
			s.WaitFor(func(q admin.QueueStatus) bool { return q.Waiting == 0 && q.InFlight == 1 })
			close(up.Pieces)
			_, _ = io.Copy(io.Discard, first.Body)
		})
	}
}

// TestNginx_OneRequestIsOne: neither nginx nor the sidecar sends again what a
// provider may have done, and what does not come is told in OpenAI's words.
func TestNginx_OneRequestIsOne(t *testing.T) {
	for _, front := range fronts {
		t.Run(front.name, func(t *testing.T) {
			requests := make(chan struct{}, 10)
			base := sidecartest.Scripted(t, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				requests <- struct{}{}
				panic(http.ErrAbortHandler)
			})
			s := start(t, base, "ALLOWED_HOSTS", "llm.example.com,127.0.0.1")
			resp, err := through(t, t.Context(), nginx(t, front.sites, s.URL)+"/v1/chat/completions", sidecartest.Chat, "Accept-Encoding", "identity")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 502 || !strings.Contains(string(body), `"code":"upstream_broken"`) || len(requests) != 1 {
				t.Errorf("%d %s after %d requests", resp.StatusCode, body, len(requests))
			}
		})
	}
}

// TestNginx_LargeBodiesPass: nginx's own bound is 1 MiB.
func TestNginx_LargeBodiesPass(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "ALLOWED_HOSTS", "llm.example.com,127.0.0.1")
	body := strings.Replace(sidecartest.Chat, "say 5 words", strings.Repeat("lorem ", 5<<20/6)+"say 5 words", 1)
	resp, err := through(t, t.Context(), nginx(t, documented, s.URL)+"/v1/chat/completions", body)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	}
}
