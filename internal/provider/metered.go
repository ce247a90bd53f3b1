package provider

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// generation is one admitted request on a metered route.
type generation struct {
	*call
	*work
	out  *shaper
	id   string // without prefix
	used Used   // generated so far
	pace time.Duration

	settle func() // charges and books what was generated, once
}

// metered serves chat completions, completions, responses and embeddings.
func (c *call) metered(ep endpoint) {
	w, err := parse(ep, c.body)
	if err != nil {
		if !c.preempted("") {
			refuseParse(c.w, err)
		}
		return
	}
	name, known := c.model(w.Model)
	c.entry.Model, c.entry.Stream = name, w.Stream
	if c.preempted(name) {
		return
	}
	if !known {
		refuse(c.w, http.StatusNotFound, apiError{
			Message: fmt.Sprintf("The model `%s` does not exist or you do not have access to it.", name),
			Type:    invalidRequest, Code: "model_not_found",
		})
		return
	}
	w.Model = name
	if ep == responses {
		w.prompt.tokens += c.conversation(w.PreviousResponseID)
	}
	c.plan(ep, w)

	ask := w.ask()
	verdict := c.admit(name, ask)
	setLevels(c.w.Header(), c.cfg.Dialect, time.Now(), verdict.Levels)
	if !verdict.OK {
		c.throttle(c.w, name, verdict)
		return
	}
	h := mix(c.cfg.Seed ^ uint64(c.entry.ID))
	g := &generation{call: c, work: w, id: fmt.Sprintf("%016x", h)}
	g.used = Used{Input: w.prompt.tokens, Cached: w.cached}
	c.entry.Accepted = true
	g.settle = sync.OnceFunc(func() {
		c.entry.PromptTokens, c.entry.CachedTokens, c.entry.CompletionTokens = g.used.Input, g.used.Cached, g.used.Output
		c.settle(name, ask, g.used)
	})
	defer g.settle()

	vary := 1 + c.cfg.Jitter*(float64(h>>11)/(1<<52)-1)
	g.pace = time.Duration(vary * float64(c.cfg.TokenInterval))
	for _, d := range []time.Duration{c.fault.stall, time.Duration(vary * float64(c.cfg.TTFT))} {
		if sleep(c.r.Context(), d) != nil {
			return
		}
	}
	g.answer(ep)
}

// answer writes the whole answer, or as much of it as the client waits for.
func (g *generation) answer(ep endpoint) {
	header := g.w.Header()
	g.setProcessing(header, time.Since(g.entry.Time))
	g.out = newShaper(g.w, g.r, g.fault)
	if ep == embeddings {
		g.sendJSON(g.embeddingBody())
		return
	}
	if !g.Stream {
		if g.generateWhole() {
			g.sendJSON(map[endpoint]func() any{chat: g.chatBody, completion: g.completionBody, responses: g.responseBody}[ep]())
			if ep == responses {
				g.remember()
			}
		}
		return
	}
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("Cache-Control", "no-cache")
	g.w.WriteHeader(http.StatusOK)
	g.out.flush()
	switch ep {
	case chat:
		g.streamChat()
	case completion:
		g.streamCompletion()
	case responses:
		g.streamResponse()
	}
}

// step generates the next token of every choice; it is false when the client has left.
func (g *generation) step() bool {
	if sleep(g.r.Context(), g.pace) != nil || g.out.err != nil {
		return false
	}
	g.used.Output += int64(g.n)
	return true
}

// think generates the tokens that are not shown.
func (g *generation) think() bool {
	for range g.reasoning {
		if !g.step() {
			return false
		}
	}
	return true
}

// generateWhole generates everything in one wait.
func (g *generation) generateWhole() bool {
	start := time.Now()
	total := g.perChoice()
	if sleep(g.r.Context(), time.Duration(total)*g.pace) == nil {
		g.used.Output = int64(g.n) * total
		return true
	}
	if g.pace > 0 {
		g.used.Output = int64(g.n) * min(total, int64(time.Since(start)/g.pace))
	}
	return false
}

// sendJSON sends a whole answer and books its delivery.
func (g *generation) sendJSON(v any) {
	body := encode(json.MarshalIndent(v, "", "  "))
	g.w.Header().Set("Content-Type", "application/json")
	body = append([]byte(g.fault.inserted), append(body, '\n')...)
	if !g.fault.gzip {
		g.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	g.deliver(func() { _, _ = g.out.Write(body) })
}

// event sends one server-sent event at once; name "" sends none, as chat does.
func (g *generation) event(name string, v any) {
	data, isText := v.(string)
	if !isText {
		data = string(encode(json.Marshal(v)))
	}
	if name != "" {
		name = "event: " + name + "\n"
	}
	_, _ = io.WriteString(g.out, name+"data: "+data+"\n\n")
	g.out.flush()
}

// end sends the last events of a stream and books the delivery.
func (g *generation) end(last func()) {
	if g.fault.inserted != "" {
		_, _ = io.WriteString(g.out, g.fault.inserted)
	}
	g.deliver(func() {
		if !g.fault.noDone {
			last()
		}
	})
}

// deliver charges what was generated and sends the end of the answer.
func (g *generation) deliver(send func()) {
	g.settle()
	g.call.deliver(g.out, !g.fault.noDone, send)
}

// deliver runs send and books whether the whole answer, if sound, has left. A client
// may hang up as soon as it has read the end, so its presence is asked before the end is
// sent; and it may ask the ledger then, so that the outcome is booked before as well.
func (c *call) deliver(out *shaper, sound bool, send func()) {
	sound = sound && c.r.Context().Err() == nil
	c.entry.Delivered = sound && c.fault.action == actionNone
	if c.w.status == 0 {
		c.w.WriteHeader(http.StatusOK)
	}
	c.record()
	send()
	out.finish()
	c.entry.Delivered = sound && out.err == nil && !out.ended
}

// encode takes the results of encoding a value of this package's own types.
func encode(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

var null = json.RawMessage("null")

// usageShape renders a usage for one of the two dialects of the API.
func (g *generation) usageShape(u Used, old bool) json.RawMessage {
	reasoning := g.reasoning * int64(g.n)
	switch g.fault.usage {
	case usageNone:
		return nil
	case usageZero:
		u, reasoning = Used{}, 0
	}
	type m = map[string]any
	shape := m{
		"input_tokens": u.Input, "input_tokens_details": m{"cached_tokens": u.Cached},
		"output_tokens": u.Output, "output_tokens_details": m{"reasoning_tokens": reasoning},
		"total_tokens": u.Input + u.Output,
	}
	if old {
		shape = m{
			"prompt_tokens": u.Input, "prompt_tokens_details": m{"cached_tokens": u.Cached, "audio_tokens": 0},
			"completion_tokens": u.Output, "completion_tokens_details": m{
				"reasoning_tokens": reasoning, "audio_tokens": 0,
				"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
			},
			"total_tokens": u.Input + u.Output,
		}
	}
	return encode(json.Marshal(shape))
}
