package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/ledger"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// handlerBubble is a bubble whose provider answers by handle.
func handlerBubble(t *testing.T, handle http.HandlerFunc, settings ...string) *bubble {
	return newBubbleOver(t, sidecartest.Serving(handle), settings...)
}

// streamOf answers with the head of a stream and what rest does then.
func streamOf(rest func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, eventA)
		_ = http.NewResponseController(w).Flush()
		rest(w, r)
	}
}

const chatPath = "/v1/session/s/chat/completions"

func outcomes(t *testing.T, b *bubble) (all []string) {
	t.Helper()
	page, err := b.server.ledger.Requests(t.Context(), "s", ledger.RecordQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range page.Records {
		all = append(all, r.Outcome.String())
	}
	return all
}

func TestRelay_SilenceBetweenTwoBytesIsBounded(t *testing.T) {
	t.Run("a stalled answer is cut after idleTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := handlerBubble(t, streamOf(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			defer b.Stop()
			started := time.Now()
			resp := b.Post(t, t.Context(), chatPath, sidecartest.ChatStream)
			body, err := io.ReadAll(resp.Body)
			if took := time.Since(started); took != idleTimeout || !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != eventA {
				t.Errorf("%v after %v with %q, want a cut after %v", err, took, body, idleTimeout)
			}
			synctest.Wait()
			if got := outcomes(t, b); fmt.Sprint(got) != "[truncated]" || b.server.limits.InFlight() != 0 {
				t.Errorf("booked %v, %d places taken", got, b.server.limits.InFlight())
			}
		})
	})
	t.Run("an answer that trickles on lives for hours", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := handlerBubble(t, streamOf(func(w http.ResponseWriter, _ *http.Request) {
				for range 20 {
					time.Sleep(idleTimeout - time.Second)
					_, _ = io.WriteString(w, ":")
					_ = http.NewResponseController(w).Flush()
				}
				_, _ = io.WriteString(w, "\n\n"+eventB+usageEv+doneEvent)
			}))
			defer b.Stop()
			started := time.Now()
			body, err := io.ReadAll(b.Post(t, t.Context(), chatPath, sidecartest.ChatStream).Body)
			if took := time.Since(started); err != nil || took < 3*time.Hour || !strings.HasSuffix(string(body), doneEvent) {
				t.Errorf("%v after %v", err, took)
			}
		})
	})
}

func TestRelay_AnswerThatIsCompleteDoesNotWaitForItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, streamOf(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, eventB+usageEv+doneEvent)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		defer b.Stop()
		started := time.Now()
		body, err := io.ReadAll(b.Post(t, t.Context(), chatPath, sidecartest.ChatStream).Body)
		if took := time.Since(started); err != nil || took != endPatience || !strings.HasSuffix(string(body), doneEvent) {
			t.Errorf("%v after %v with %q, want a clean end after %v", err, took, body, endPatience)
		}
		if got := outcomes(t, b); fmt.Sprint(got) != "[complete]" {
			t.Errorf("booked %v", got)
		}
	})
}

// TestRelay_SlowReader has a client that takes the headers and reads no more:
// the upstream is not read further (a bounded buffer, no more), and after
// SlowReader the client has lost its place.
func TestRelay_SlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		var cut atomic.Int64 // when the upstream's answer was given up, in ns since started
		started := time.Now()
		b := handlerBubble(t, streamOf(func(w http.ResponseWriter, _ *http.Request) {
			for {
				n, err := io.WriteString(w, eventA)
				if err != nil {
					cut.Store(int64(time.Since(started)))
					return
				}
				sent.Add(int64(n))
			}
		}), "DISCONNECT_POLICY", "cancel")
		defer b.Stop()
		conn, err := b.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go fmt.Fprintf(conn, "POST "+chatPath+" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(sidecartest.ChatStream), sidecartest.ChatStream)
		if _, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(httpapi.SlowReader - time.Second)
		if n := sent.Load(); n > 256<<10 || cut.Load() != 0 || b.server.limits.InFlight() != 1 {
			t.Errorf("%d bytes were taken from the upstream for a client that reads none; cut after %v", n, time.Duration(cut.Load()))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if after := time.Duration(cut.Load()); after != httpapi.SlowReader || b.server.limits.InFlight() != 0 {
			t.Errorf("cut after %v, want %v; %d places taken", after, httpapi.SlowReader, b.server.limits.InFlight())
		}
		if got := outcomes(t, b); fmt.Sprint(got) != "[client_gone]" {
			t.Errorf("booked %v", got)
		}
	})
}

func TestDrain_IsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given atomic.Int64
		b := handlerBubble(t, streamOf(func(_ http.ResponseWriter, r *http.Request) {
			started := time.Now()
			<-r.Context().Done()
			given.Store(int64(time.Since(started)))
		}))
		defer b.Stop()
		ctx, leave := context.WithCancel(t.Context())
		resp := b.Post(t, ctx, chatPath, sidecartest.ChatStream)
		sidecartest.Read(t, resp.Body, len(eventA))
		leave()
		time.Sleep(drainTime - time.Millisecond)
		if b.server.proxy.Load().Drains != 1 || b.server.limits.InFlight() != 1 {
			t.Errorf("%d answers are read on, %d places held, want 1 and 1", b.server.proxy.Load().Drains, b.server.limits.InFlight())
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if after := time.Duration(given.Load()); after != drainTime || b.server.proxy.Load().Drains != 0 || b.server.limits.InFlight() != 0 {
			t.Errorf("given up after %v, want %v; %d are read on", after, drainTime, b.server.proxy.Load().Drains)
		}
	})
}

func TestDrain_IsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var after atomic.Int64
		b := handlerBubble(t, streamOf(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second) // the client has left by now
			for {
				n, err := io.WriteString(w, eventA)
				if err != nil {
					return
				}
				after.Add(int64(n))
			}
		}))
		defer b.Stop()
		ctx, leave := context.WithCancel(t.Context())
		resp := b.Post(t, ctx, chatPath, sidecartest.ChatStream)
		sidecartest.Read(t, resp.Body, len(eventA))
		leave()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := after.Load(); n < drainBytes || n > drainBytes+128<<10 || b.server.limits.InFlight() != 0 {
			t.Errorf("%d bytes were read on, want %d and a buffer; %d places held", n, drainBytes, b.server.limits.InFlight())
		}
	})
}

// TestDrain_TakesATenthOfThePlaces lets 30 of 40 clients leave.
func TestDrain_TakesATenthOfThePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := handlerBubble(t, streamOf(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		defer b.Stop()
		ctx, leave := context.WithCancel(t.Context())
		stay, end := context.WithCancel(t.Context())
		for i := range 40 {
			of := ctx
			if i >= 30 {
				of = stay
			}
			sidecartest.Read(t, b.Post(t, of, chatPath, sidecartest.ChatStream).Body, len(eventA))
		}
		leave()
		synctest.Wait()
		if n := b.server.proxy.Load().Drains; n < 1 || n > 4 {
			t.Errorf("%d of 40 answers are read on, want at most a tenth", n)
		}
		time.Sleep(drainTime)
		synctest.Wait()
		if n := b.server.limits.InFlight(); n != 10 {
			t.Errorf("%d places are held, want those of the 10 that stayed", n)
		}
		end()
		time.Sleep(drainTime)
	})
}
