package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// What the program needs, measured from outside, on the real binary. .ci/resources
// and .ci/soak run these; they set the limits and the variables.

// measured skips unless a script asked for it.
func measured(t *testing.T, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		t.Skip("run by a script: .ci/resources, .ci/soak")
	}
	return value
}

// plainProxyEnv makes the test binary a plain proxy instead.
const plainProxyEnv = "LLM_QUEUE_PROXY_TEST_PLAIN"

// plainProxy is the standard library's reverse proxy: what any Go proxy costs.
func plainProxy() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	upstream, err := url.Parse(os.Getenv("OPENAI_BASE_URL"))
	if err != nil {
		return 1
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		FlushInterval: -1, ErrorLog: discardLog,
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("serving", "addr", l.Addr().String())
	go func() { _ = server.Serve(l) }()
	<-ctx.Done()
	_ = server.Close()
	return 0
}

// TestResources_Streams: what an open stream costs, beside what it costs the
// standard library's own proxy. The aim of 60 kB is at that proxy's figure here,
// 59 to 67 kB; the bounds keep ours from growing away from it.
func TestResources_Streams(t *testing.T) {
	measured(t, "RESOURCES")
	_, base := sidecartest.Simulated(t, provider.Config{TokenInterval: 200 * time.Millisecond})
	plain := streamCost(t, sidecartest.Launch{Wrapper: []string{os.Args[0]}}.Child(t, base, plainProxyEnv, "1"), "/chat/completions")
	p := sidecartest.Child(t, base)
	ours := streamCost(t, p, "/v1/session/s-%d/chat/completions")
	t.Logf("%d streams: %d bytes each, %.2f times the plain proxy's %d", openStreams, ours, float64(ours)/float64(plain), plain)
	if ours > 80_000 || float64(ours) > 1.4*float64(plain) {
		t.Errorf("%d bytes a stream, %d of a plain proxy", ours, plain)
	}
}

const openStreams = 500

// streamCost is what one of openStreams slow streams adds to the memory of p: the
// median of ten samples.
func streamCost(t *testing.T, p *sidecartest.Process, path string) int64 {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	transport := &http.Transport{MaxIdleConnsPerHost: openStreams}
	defer transport.CloseIdleConnections()
	body := strings.Replace(sidecartest.ChatStream, "say 5 words", "say 500 words", 1)
	var calls sync.WaitGroup
	streaming := make(chan struct{}, openStreams+1)
	open := func(i int) {
		calls.Go(func() {
			url := p.URL + strings.Replace(path, "%d", strconv.Itoa(i), 1)
			req, _ := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			_, _ = io.ReadFull(resp.Body, make([]byte, 1))
			streaming <- struct{}{}
			_, _ = io.Copy(io.Discard, resp.Body)
		})
	}
	open(openStreams) // what the first costs is not the others'
	<-streaming
	before := p.Resident()
	for i := range openStreams {
		open(i)
	}
	for range openStreams {
		<-streaming
	}
	var samples []int64
	for range 10 {
		<-time.After(500 * time.Millisecond)
		samples = append(samples, (p.Resident()-before)/openStreams)
	}
	slices.Sort(samples)
	leave()
	calls.Wait()
	return samples[5]
}

// TestResources_Bodies: 100 requests of 20 MiB in a cgroup of 512 MiB.
func TestResources_Bodies(t *testing.T) {
	cgroup := measured(t, "CGROUP")
	const requests, size = 100, 20 << 20
	_, base := sidecartest.Simulated(t, provider.Config{TTFT: time.Second})
	p := confined(cgroup).Child(t, base)
	body := strings.Replace(sidecartest.Chat, "say 5 words", strings.Repeat("lorem ", size/6)+"say 5 words", 1)
	var served, full, broken atomic.Int64
	var calls sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: requests}
	defer transport.CloseIdleConnections()
	for i := range requests {
		calls.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("%s/v1/session/s-%d/chat/completions", p.URL, i), strings.NewReader(body))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				broken.Add(1) // refused before the body was read: the rest of it meets a closed connection
				return
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			switch {
			case resp.StatusCode == 200:
				served.Add(1)
			case resp.StatusCode == 503 && strings.Contains(string(text), "queue_full"):
				full.Add(1)
			default:
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		})
	}
	calls.Wait()
	refused := p.Series(`llm_queue_proxy_refused_total{code="queue_full"}`)
	t.Logf("%d served, %d answered queue_full, %d broken off while sending, %v refused in all; peak %s bytes", served.Load(), full.Load(), broken.Load(), refused, peakOf(cgroup))
	if served.Load() < 4 || int64(refused)+served.Load() != requests {
		t.Errorf("%d served and %v refused of %d", served.Load(), refused, requests)
	}
	if n := p.Series("llm_queue_proxy_body_bytes"); n != 0 {
		t.Errorf("%v bytes are still held", n)
	}
	if a := sidecartest.Send(t, "POST", p.URL+"/v1/session/after/chat/completions", sidecartest.Chat); a.StatusCode != 200 {
		t.Errorf("the next request: %d", a.StatusCode)
	}
	survived(t, cgroup)
}

// confined launches a program inside a cgroup, which is put where a container would
// see it.
func confined(cgroup string) sidecartest.Launch {
	mounted := "/sys/fs/cgroup/memory"
	if _, err := os.Stat(mounted); err != nil {
		mounted = "/sys/fs/cgroup"
	}
	script := fmt.Sprintf(`mount --make-rprivate / && echo $$ >%[1]s/cgroup.procs && mount --bind %[1]s %[2]s && exec "$@"`, cgroup, mounted)
	return sidecartest.Launch{Wrapper: []string{"unshare", "-m", "sh", "-c", script, "sh"}}
}

// peakOf is the most memory that the cgroup had.
func peakOf(cgroup string) string {
	for _, name := range []string{"memory.max_usage_in_bytes", "memory.peak"} {
		if text, err := os.ReadFile(filepath.Join(cgroup, name)); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	return "unknown"
}

// survived checks that nothing in the cgroup was killed for its memory.
func survived(t *testing.T, cgroup string) {
	t.Helper()
	for _, name := range []string{"memory.oom_control", "memory.events"} {
		text, err := os.ReadFile(filepath.Join(cgroup, name))
		if err == nil && !strings.Contains(string(text), "oom_kill 0") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// TestResources_HalfOpen: 5,000 connections that say half a header, and health
// answers in less than 50 ms (the median of a hundred; the machine is shared).
func TestResources_HalfOpen(t *testing.T) {
	measured(t, "RESOURCES")
	const connections = 5000
	_, base := sidecartest.Simulated(t, provider.Config{})
	p := sidecartest.Child(t, base)
	before := p.Resident()
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for range connections {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		_, _ = io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX")
	}
	p.Until("5,000 connections", func() bool { return p.Descriptors() > connections })
	var took []time.Duration
	for range 100 {
		begun := time.Now()
		resp, err := http.Get(p.URL + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	held := p.Descriptors()
	t.Logf("%d descriptors open, health answers in %v (median), %v (worst); %d bytes a connection", held, took[50], took[99], (p.Resident()-before)/connections)
	if took[50] > 50*time.Millisecond {
		t.Errorf("health took %v", took[50])
	}
	p.Until("they are closed after ten seconds", func() bool { return p.Descriptors() < 50 })
}

// TestResources_Full: a thousand half-open connections at a process that may open
// 256 files. Health on the admin listener does not notice; the main one answers
// as soon as those before it have given way, and a request goes through.
func TestResources_Full(t *testing.T) {
	measured(t, "RESOURCES")
	_, base := sidecartest.Simulated(t, provider.Config{})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin := free.Addr().String()
	free.Close()
	p := sidecartest.Launch{Wrapper: []string{"prlimit", "--nofile=256:256"}}.Child(t, base, "ADMIN_ADDR", admin)
	for range 1000 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX")
	}
	health := func(base string) time.Duration {
		begun := time.Now()
		resp, err := http.Get(base + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return time.Since(begun)
	}
	var took []time.Duration
	for range 20 {
		took = append(took, health("http://"+admin))
	}
	slices.Sort(took)
	held, main := p.Descriptors(), health(p.URL)
	t.Logf("%d descriptors open; health answers in %v (median) on the admin listener, in %v on the main one", held, took[10], main)
	if took[10] > 50*time.Millisecond || main > 6*time.Second {
		t.Errorf("health took %v and %v", took[10], main)
	}
	if a := sidecartest.Send(t, "POST", p.URL+"/v1/session/after/chat/completions", sidecartest.Chat); a.StatusCode != 200 {
		t.Errorf("the next request: %d", a.StatusCode)
	}
}

// TestResources_Descriptors: with 256 descriptors, 400 clients at once are served,
// later rather than not at all.
func TestResources_Descriptors(t *testing.T) {
	measured(t, "RESOURCES")
	const clients = 400
	_, base := sidecartest.Simulated(t, provider.Config{TTFT: 50 * time.Millisecond})
	p := sidecartest.Launch{Wrapper: []string{"prlimit", "--nofile=256:256"}}.Child(t, base)
	var calls sync.WaitGroup
	var answered, refused, failed atomic.Int64
	for i := range clients {
		calls.Go(func() {
			transport := &http.Transport{DisableKeepAlives: true}
			req, _ := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("%s/v1/session/s-%d/chat/completions", p.URL, i), strings.NewReader(sidecartest.Chat))
			resp, err := transport.RoundTrip(req)
			switch {
			case err != nil:
				failed.Add(1)
				return
			case resp.StatusCode == 200:
				answered.Add(1)
			default:
				refused.Add(1)
			}
			resp.Body.Close()
		})
	}
	calls.Wait()
	t.Logf("%d answered, %d refused, %d broken", answered.Load(), refused.Load(), failed.Load())
	if answered.Load() < clients*9/10 || failed.Load() > 0 {
		t.Errorf("%d of %d answered, %d broken", answered.Load(), clients, failed.Load())
	}
	if a := sidecartest.Send(t, "POST", p.URL+"/v1/session/after/chat/completions", sidecartest.Chat); a.StatusCode != 200 {
		t.Errorf("the next request: %d", a.StatusCode)
	}
}

// TestSoak keeps 2,000 requests waiting and 200 streaming for SOAK minutes. After a
// warm-up, memory, descriptors and goroutines must be flat: the first and the
// last third of the samples are compared, by their medians.
func TestSoak(t *testing.T) {
	minutes, err := strconv.ParseFloat(measured(t, "SOAK"), 64)
	if err != nil {
		t.Fatal(err)
	}
	const streaming, queued = 200, 2000
	sim, base := sidecartest.Simulated(t, provider.Config{TTFT: 100 * time.Millisecond, TokenInterval: 20 * time.Millisecond, Jitter: 0.5, MaxEntries: 1000})
	p := sidecartest.Child(t, base, append(sidecartest.SQLite(t), "MAX_CONCURRENT_REQUESTS", fmt.Sprint(streaming), "QUEUE_MAX_WAIT", "1h")...)
	ctx, cancel := context.WithCancel(t.Context())
	transport := &http.Transport{MaxIdleConnsPerHost: streaming + queued}
	defer transport.CloseIdleConnections()
	var calls sync.WaitGroup
	var complete, cut, other, tooMany atomic.Int64
	body := strings.Replace(sidecartest.ChatStream, "say 5 words", "say 60 words", 1)
	for i := range streaming + queued {
		calls.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				call, leave := context.WithCancel(ctx)
				if (i+n)%50 == 0 { // some leave while they wait or read
					defer time.AfterFunc(time.Duration(i%3000)*time.Millisecond, leave).Stop()
				}
				req, _ := http.NewRequestWithContext(call, "POST", fmt.Sprintf("%s/v1/session/s-%d/chat/completions", p.URL, i%300), strings.NewReader(body))
				resp, err := transport.RoundTrip(req)
				if err == nil {
					var text []byte
					text, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					switch {
					case resp.StatusCode == 429:
						tooMany.Add(1)
					case err == nil && resp.StatusCode == 200 && strings.HasSuffix(string(text), "data: [DONE]\n\n"):
						complete.Add(1)
					case err == nil:
						other.Add(1)
					}
				}
				if err != nil {
					cut.Add(1)
				}
				leave()
			}
		})
	}
	type sample struct{ memory, descriptors, goroutines float64 }
	var samples []sample
	length := time.Duration(minutes * float64(time.Minute))
	pace := time.NewTicker(max(length/60, 500*time.Millisecond))
	defer pace.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); {
		<-pace.C
		samples = append(samples, sample{float64(p.Resident()), float64(p.Descriptors()), p.Series("go_goroutines")})
	}
	depth := p.Series("llm_queue_proxy_queue_depth")
	cancel()
	calls.Wait()
	p.Until("rest", func() bool {
		return p.Series("llm_queue_proxy_in_flight") == 0 && p.Series("llm_queue_proxy_queue_depth") == 0 && p.Series("llm_queue_proxy_drains") == 0
	})
	samples = samples[len(samples)/4:] // the warm-up: pools and caches fill
	part := len(samples) / 3
	median := func(of []sample, value func(sample) float64) float64 {
		var all []float64
		for _, s := range of {
			all = append(all, value(s))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	memorySlack := float64(8 << 20)
	if minutes < 10 { // the heap is still finding its size
		memorySlack *= 3
	}
	for _, m := range []struct {
		name  string
		value func(sample) float64
		most  float64 // growth of the median from the first third to the last, as a part
		slack float64 // and in units: what a single garbage collection, or a few clients that leave at once, make
	}{
		{"resident bytes", func(s sample) float64 { return s.memory }, 0.05, memorySlack},
		{"descriptors", func(s sample) float64 { return s.descriptors }, 0.02, 60},
		{"goroutines", func(s sample) float64 { return s.goroutines }, 0.02, 120},
	} {
		first, last := median(samples[:part], m.value), median(samples[len(samples)-part:], m.value)
		t.Logf("%s: %.0f in the first third, %.0f in the last", m.name, first, last)
		if last > first*(1+m.most)+m.slack {
			t.Errorf("%s grew from %.0f to %.0f", m.name, first, last)
		}
	}
	totals := sim.Totals()
	t.Logf("%.1f minutes: %d complete, %d left or cut, %d others, %d 429s; queue depth at the end %.0f; the provider delivered %d", minutes, complete.Load(), cut.Load(), other.Load(), tooMany.Load(), depth, totals.Delivered)
	if other.Load() > 0 || tooMany.Load() > 0 || complete.Load() == 0 || depth < queued/2 {
		t.Error("the load was not what it should be, or clients saw refusals")
	}
	if n := p.Series("llm_queue_proxy_records_failed_total"); n != 0 {
		t.Errorf("%v records failed", n)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	p.Until("goroutines at rest", func() bool { return p.Series("go_goroutines") < 60 })
	t.Logf("at rest: %.0f goroutines, %d descriptors, %d resident bytes", p.Series("go_goroutines"), p.Descriptors(), p.Resident())
}
