package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tmaxmax/go-sse"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// FuzzWalk holds the walker to encoding/json: what is JSON, and where values end.
func FuzzWalk(f *testing.F) {
	for _, s := range shapes()[:40] {
		f.Add([]byte(s))
	}
	for _, s := range []string{"", "{", `{"a":[1,{"b":"\u00e9\ud83d"}],"c":-0.5e+10}`, `[[[[]]]]`, `{"a":1}{}`, "{\"a\":\"\x01\"}", `{"":{},"":[]}`, `{"a":truefalse}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		at := skipSpace(b, 0)
		valid := isJSON(b)
		if valid != json.Valid(b) {
			t.Fatalf("walker says %v, encoding/json %v", valid, !valid)
		}
		var names []string
		m := membersOf(b)
		for m.next() {
			if !json.Valid(m.value) {
				t.Fatalf("member %q is not a value: %q", m.name, m.value)
			}
			names = append(names, string(m.name))
		}
		object := valid && b[at] == '{'
		if m.valid() != object {
			t.Fatalf("members valid = %v", m.valid())
		}
		if !object {
			return
		}
		var std map[string]json.RawMessage
		if err := json.Unmarshal(b, &std); err != nil {
			t.Fatal(err)
		}
		if len(names) < len(std) {
			t.Fatalf("%d members, want at least %d", len(names), len(std))
		}
	})
}

// FuzzDecode: any body decodes without panic, and goes up unchanged but for the splice.
func FuzzDecode(f *testing.F) {
	for i, s := range shapes() {
		if i%7 == 0 {
			f.Add(uint8(Chat), []byte(s))
		}
	}
	f.Add(uint8(Responses), []byte(`{"input":[{"role":"user","content":"a"}],"stream":true,"reasoning":{"effort":"low"},"tool_choice":{"type":"x"}}`))
	f.Add(uint8(Completions), []byte(`{"prompt":[1,2],"stream":true,"stop":["a"],"best_of":2}`))
	f.Fuzz(func(t *testing.T, ep uint8, body []byte) {
		endpoint := Endpoint(ep % uint8(len(formats)))
		before := bytes.Clone(body)
		r, err := Decode(endpoint, body)
		if err != nil {
			var duplicate *DuplicateFieldError
			if !errors.As(err, &duplicate) || !json.Valid(body) {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		if r.MaxOutput < 0 || r.Choices < 0 {
			t.Fatal("negative counts")
		}
		up, spliced := r.Upstream()
		if !bytes.Equal(before, body) {
			t.Fatal("the client's bytes were changed")
		}
		if spliced {
			checkSplice(t, endpoint, body, up)
		} else if !bytes.Equal(up, body) {
			t.Fatal("changed without a splice")
		}
	})
}

// reference reads a whole stream with another implementation: what the usage of whole
// events comes to, and whether the stream has its [DONE].
func reference(stream []byte) (said tally, complete bool) {
	stream = append(bytes.Clone(stream), "\n\n"...) // at the end go-sse drops what no blank line follows, SDKs read it
	for e, err := range sse.Read(bytes.NewReader(stream), &sse.ReadConfig{MaxEventSize: 1 << 24}) {
		if err != nil {
			break
		}
		if strings.TrimSpace(e.Data) == "[DONE]" {
			complete = true
		}
		if !json.Valid([]byte(e.Data)) {
			continue
		}
		var v struct {
			Usage   json.RawMessage `json:"usage"`
			Choices json.RawMessage `json:"choices"`
		}
		if json.Unmarshal([]byte(e.Data), &v) != nil {
			continue
		}
		u, ok := readUsage(v.Usage)
		var choices []json.RawMessage
		if !ok && json.Unmarshal(v.Choices, &choices) == nil { // Moonshot's
			for _, c := range choices {
				var choice struct {
					Usage json.RawMessage `json:"usage"`
				}
				if json.Unmarshal(c, &choice) != nil {
					continue
				}
				if inner, known := readUsage(choice.Usage); known {
					u, ok = inner, true
				}
			}
		}
		if ok {
			said.merge(&u)
		}
	}
	return said, complete
}

// FuzzStream: the bytes pass unchanged however they are cut, and what is found
// in them is what go-sse and encoding/json find.
func FuzzStream(f *testing.F) {
	for _, s := range []string{
		delta + final + done, strings.ReplaceAll(delta+final+done, "\n", "\r\n"), strings.ReplaceAll(delta+last+done, "\n", "\r"),
		": ping\n\n" + running + last, "data: {\"a\":1,\ndata: \"usage\":{\"prompt_tokens\":1}}\n\n", "\xEF\xBB\xBF" + delta, "data\n\ndata:\n\nid: 1\nevent: error\n",
		responseEvent("response.created", "null") + responseEvent("response.completed", responseUsage), groq + done, "data: {\"usage\" : { \"prompt_tokens\" : 0 } }\n\n",
	} {
		f.Add([]byte(s), uint8(3), false)
		f.Add([]byte(s), uint8(200), true)
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint8, strip bool) {
		step := int(size) + 1
		w := Watch(Chat, WatchOptions{Stream: true, StripUsage: strip})
		var got bytes.Buffer
		for at := 0; at < len(stream); at += step {
			got.Write(w.Push(stream[at:min(at+step, len(stream))]))
		}
		got.Write(w.Close())
		if !strip && !bytes.Equal(got.Bytes(), stream) {
			t.Fatalf("the bytes changed: %q", got.Bytes())
		}
		if strip && got.Len() > len(stream) {
			t.Fatal("bytes were added")
		}
		whole := Watch(Chat, WatchOptions{Stream: true})
		whole.Push(stream)
		whole.Close()
		u, ok := w.Usage()
		if v, found := whole.Usage(); u != v || ok != found || w.Complete() != whole.Complete() || w.Failed() != whole.Failed() {
			t.Fatalf("cut by %d: %+v %v, whole: %+v %v", step, u, ok, v, found)
		}
		if !sameReading(stream) {
			return
		}
		said, complete := reference(stream)
		if want, known := said.usage(true); known && (!ok || u != want) {
			t.Fatalf("usage %+v %v, go-sse finds %+v", u, ok, want)
		}
		if complete && !w.Complete() {
			t.Fatal("not complete, go-sse finds [DONE]")
		}
	})
}

// sameReading keeps the comparison to streams on which the two should agree:
// encoding/json ignores the case of names and reads escaped ones, and go-sse
// joins data lines that we read as events of their own when the first is whole
// and lets a NUL end an id.
func sameReading(stream []byte) bool {
	if bytes.ContainsAny(stream, "\\\x00") || bytes.Contains(bytes.ToLower(stream), []byte("x_groq")) || bytes.Contains(bytes.ToLower(stream), []byte("metadata")) || bytes.Count(bytes.ToLower(stream), []byte("choices")) != bytes.Count(stream, []byte(`"choices"`)) {
		return false
	}
	if n := bytes.Count(bytes.ToLower(stream), usageName); n != bytes.Count(stream, usageName) {
		return false
	}
	if b := firstWord(stream); len(b) > 0 && (b[0] == '{' || b[0] == '[') {
		return false // it is taken for a JSON value
	}
	event := 0
	for line := range bytes.SplitSeq(bytes.ReplaceAll(bytes.ReplaceAll(stream, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n")), []byte("\n")) {
		switch {
		case len(line) == 0:
			event = 0
		case bytes.HasPrefix(line, []byte("data")):
			if event++; event > 1 {
				return false
			}
		}
	}
	return true
}

// firstWord is what follows the blanks and comments that an answer begins with.
func firstWord(stream []byte) []byte {
	for {
		b := bytes.TrimLeft(bytes.TrimPrefix(stream, byteOrderMark), " \t\r\n")
		if len(b) > 0 && b[0] == ':' {
			b = b[max(bytes.IndexAny(b, "\r\n"), 0):]
			if b[0] == ':' {
				return nil
			}
		}
		if len(b) == len(stream) {
			return b
		}
		stream = b
	}
}

// usageInChoices may be Moonshot's, which the other readers do not know.
func usageInChoices(b []byte) bool {
	_, after, found := bytes.Cut(bytes.ToLower(b), []byte("choices"))
	return found && bytes.Contains(after, usageName)
}

// FuzzUsage: an answer's usage is what encoding/json finds in the whole of it.
func FuzzUsage(f *testing.F) {
	for _, s := range []string{
		`{"usage":{"prompt_tokens":7,"completion_tokens":3}}`, `{"choices":[{"usage":{"prompt_tokens":1}}],"usage":null}`,
		`{"response":{"usage":{"input_tokens":7}}}`, `{"x_groq":{"usage":{"prompt_tokens":7}}}`, `{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}`,
		`{"error":{"code":5}}`, `{"a":"\\","usage":{"total_tokens":1e2}}`, `[{"usage":{"prompt_tokens":1}}]`, `"usage"`, `{"usage":{"prompt_tokens":5},"x":"}`,
	} {
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(s), uint8(100))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		step := int(size) + 1
		w := Watch(Chat, WatchOptions{})
		var got bytes.Buffer
		for at := 0; at < len(body); at += step {
			got.Write(w.Push(body[at:min(at+step, len(body))]))
		}
		if got.Write(w.Close()); !bytes.Equal(got.Bytes(), body) {
			t.Fatal("the bytes changed")
		}
		if !json.Valid(body) || bytes.Contains(body, []byte("response")) || bytes.Contains(body, []byte("x_groq")) || bytes.Contains(body, []byte("etadata")) || usageInChoices(body) || bytes.IndexByte(body, '\\') >= 0 {
			return
		}
		if b := bytes.TrimSpace(body); b[0] != '{' {
			return
		}
		if !w.Complete() {
			t.Fatal("whole, but not complete")
		}
		var said tally
		for m := membersOf(body); m.next(); {
			if string(m.name) == "usage" && len(m.value) <= maxKept {
				if u, ok := readUsage(m.value); ok {
					said = u
				}
			}
		}
		u, ok := w.Usage()
		if want, known := said.usage(true); u != want || ok != known {
			t.Fatalf("usage %+v %v, want %+v %v", u, ok, want, known)
		}
	})
}

// FuzzRateLimit: no header value makes a level that no limit can have.
func FuzzRateLimit(f *testing.F) {
	for _, s := range []string{"30000", "-1", "6m0s", "1ms", "1e999", "NaN", "2026-03-01T12:00:02Z", "Sun, 01 Mar 2026 12:00:07 GMT", "100, 100;w=60", "1772366430000", "", `"a";q=10;w=1, "b";q=5;w=86400;qu="tokens"`, `"a";r=9;t=1`, "limit=100, remaining=50, reset=5"} {
		f.Add("tokens", s)
		f.Add("input-tokens-day", s)
	}
	f.Fuzz(func(t *testing.T, what, value string) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		h := http.Header{"Retry-After": {value}, "Retry-After-Ms": {value}}
		for _, n := range []string{"limit", "remaining", "reset"} {
			h.Set("x-ratelimit-"+n+"-"+what, value)
			h.Set("anthropic-ratelimit-"+what+"-"+n, value)
		}
		for _, n := range []string{"RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "RateLimit-" + what} {
			h.Set(n, value)
		}
		s := ParseRateLimit("", h, now)
		for _, level := range append(s.Levels[:], llm.Level{Reset: s.RetryAfter}) {
			if level.Limit < 0 || level.Limit > maxCount || level.Remaining < 0 || level.Remaining > maxCount || level.Reset < 0 || level.Reset > maxReset || level.HasLimit && level.Limit == 0 || level.Period < 0 || level.Period > mostDay {
				t.Fatalf("%q: %+v", value, level)
			}
			if window(&level) < 0 {
				t.Fatalf("%q: window %v", value, window(&level))
			}
		}
	})
}

// FuzzThrottle: no body makes numbers that no limit can have.
func FuzzThrottle(f *testing.F) {
	for _, s := range []string{
		openAIError("Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please try again in 1h6m0.5s.", "tokens", "rate_limit_exceeded"),
		`[{"error":{"details":[{"retryDelay":"34s"}]}}]`, `{"error":"x"}`, `{"error":{"error":{}}}`, `Please retry after 99999999999999 days`, `limit 1,2,3`, `{"detail":[]}`,
		`{"error":{"message":"free-models-per-day","metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1772366430000"},"raw":"{\"error\":{\"message\":\"x\"}}"}}}`,
		`[{"error":{"details":[{"violations":[{"quotaId":"GenerateRequestsPerDay","quotaValue":"0"}]},{"retryDelay":"34s"}]}}]`, `{"retry_after_ms":-5,"resets_at":"99999999999999","resets_in_seconds":"1h"}`,
		`limit resets at: 2026-03-01 12:00:00 +0100, 1.00:00:99`, `sk-abcdefgh bearer x user@example.org org-12345678`, `<p>rate limit</p><style>`, `余额不足 per 86400s`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		kind, th := ParseThrottle("", nil, body, time.Now())
		if inside, _, ok := ParseThrottleInside("", nil, body, time.Now()); ok && inside != kind {
			t.Fatalf("inside of an answer it is of kind %d, else of %d", inside, kind)
		}
		if len(th.Said) > maxSaid || strings.ContainsAny(th.Said, "\n\r\x00\x1b") || !utf8.ValidString(th.Said) || Quotable(th.Said) != th.Said {
			t.Fatalf("%q is no line that could be quoted", th.Said)
		}
		if th.Period < 0 || th.Dimension.Daily() && !daily(th.Period) {
			t.Fatalf("%+v", th)
		}
		if th.Limit < 0 || th.Used < 0 || th.Requested < 0 || th.RetryAfter < 0 || th.RetryAfter > maxReset || !th.HasRetryAfter && th.RetryAfter != 0 {
			t.Fatalf("%+v", th)
		}
		RejectsStreamOptions(400, body)
	})
}
