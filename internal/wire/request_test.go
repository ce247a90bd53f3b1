package wire

import (
	"bytes"
	stdcmp "cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go"
	"github.com/openai/openai-go/responses"
	"pgregory.net/rapid"
)

func TestEndpointOf(t *testing.T) {
	tests := []struct {
		method, path string
		want         Endpoint
	}{
		{"POST", "chat/completions", Chat},
		{"POST", "/completions", Completions},
		{"POST", "responses", Responses},
		{"POST", "embeddings", Embeddings},
		{"GET", "chat/completions", Other},
		{"POST", "chat/completions/", Other},
		{"POST", "Chat/Completions", Other},
		{"POST", "//completions", Other},
		{"POST", "responses/r_1/cancel", Other},
		{"POST", "images/generations", Other},
	}
	for _, tt := range tests {
		if got := EndpointOf(tt.method, tt.path); got != tt.want {
			t.Errorf("%s %s: %v, want %v", tt.method, tt.path, got, tt.want)
		}
	}
}

// A row is found by the name it shows, and says something of each of the questions
// that were once one.
func TestFormats_AreFoundAndSayWhatTheyAre(t *testing.T) {
	for i := range formats {
		e := Endpoint(i)
		if got := EndpointOf("POST", e.String()); got != e {
			t.Errorf("%v is found as %v", e, got)
		}
		if e.String() == "" || e != Other && formats[e].method == "" {
			t.Errorf("endpoint %d has no row", i)
		}
		// What is billed has to be known before it is sent, and afterwards.
		if e.Billed() && !(e.Decoded() && e.TellsUsage()) {
			t.Errorf("%v is billed: decoded %v, tells usage %v", e, e.Decoded(), e.TellsUsage())
		}
		if (e.TellsUsage() || e.Generates()) && !e.Decoded() {
			t.Errorf("%v is not decoded: tells usage %v, generates %v", e, e.TellsUsage(), e.Generates())
		}
	}
	for e, want := range map[Endpoint][3]bool{ // decoded, billed, generates
		Other: {}, Chat: {true, true, true}, Completions: {true, true, true}, Responses: {true, true, true}, Embeddings: {true, true, false},
	} {
		if got := [3]bool{e.Decoded(), e.Billed(), e.Generates()}; got != want {
			t.Errorf("%v: decoded, billed, generates: %v, want %v", e, got, want)
		}
	}
	for _, method := range []string{"", "GET"} {
		if got := EndpointOf(method, "other"); got != Other {
			t.Errorf("%s other is %v", method, got)
		}
	}
}

// shapes returns request bodies of every form we know, for the fidelity tests.
func shapes() []string {
	messages := []string{
		`[{"role":"user","content":"hi"}]`,
		`[{"role":"user","content":[{"type":"text","text":"a\nb"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]`,
		`[{"role":"user","content":[{"type":"video_url","video_url":{"url":"https://x/y.mp4"}}]}]`,
		`[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"c","content":"ok"}]`,
		`[{"role":"assistant","reasoning_content":"hm","content":"x","cache_control":{"type":"ephemeral"}}]`,
		`[{"content":"no role"}]`,
		`[{"role":"narrator","content":"\ud83d\ude00 \u00e9 é 日本"}]`,
		`[]`, `null`, `"text"`,
	}
	members := []string{
		``,
		`"temperature":0`, `"temperature":0.70`, `"temperature":"0.5"`, `"top_p":1e0`,
		`"seed":99999999999999999999`, `"max_tokens":100.0`, `"max_tokens":null`, `"n":0`,
		`"stop":"a"`, `"stop":["a","b"]`, `"stop":null`, `"logit_bias":{"50256":-100}`,
		`"tools":[]`, `"tools":[{"type":"function","function":{"name":"f","parameters":{"maximum":1e400}}}]`,
		`"tool_choice":{"type":"function","function":{"name":"f"}}`, `"tool_choice":"auto"`,
		`"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"type":"object"}}}`,
		`"top_k":5,"min_p":0.1,"guided_json":{"a":[1,2]}`, `"transforms":[],"provider":{"order":["a"]}`,
		`"chat_template_kwargs":{"enable_thinking":false}`, `"metadata":{"a":"b"}`, `"user":"u"`,
		`"stream_options":{"include_usage":true}`,
	}
	streams := []string{
		``, `"stream":false`, `"stream":true`, `"stream" : true `, `"str\u0065am":true`, `"stream":"true"`, `"stream":null`,
		`"stream":true,"stream_options":null`, `"stream":true,"stream_options":{}`, `"stream_options":{"include_usage":false},"stream":true`,
		`"stream":true,"stream_options":{"include_obfuscation":false}`, `"stream":true,"stream_options":{ "include_usage" : null , "x":{"include_usage":true}}`,
		`"stream":true,"stream_options":{"x":[],"include\u005fusage":false}`, `"stream":true,"stream_options":"x"`, `"stream":true,"stream_options":{"include_usage":1}`,
	}
	var all []string
	add := func(parts ...string) {
		var some []string
		for _, p := range parts {
			if p != "" {
				some = append(some, p)
			}
		}
		all = append(all, "{"+strings.Join(some, ",")+"}", " {\r\n\t"+strings.Join(some, " ,\n")+"\n}\n")
	}
	for _, m := range messages {
		for _, s := range streams {
			add(`"model":"gpt-4o"`, `"messages":`+m, s)
		}
	}
	for _, m := range members {
		for _, s := range streams {
			if !strings.Contains(m, "stream_options") || !strings.Contains(s, "stream_options") {
				add(s, m, `"model":"gpt-4o"`, `"messages":[]`)
			}
		}
	}
	for _, input := range []string{`"a"`, `[]`, `["a","b"]`, `[1,2]`, `[[1],[2]]`, `[{"role":"user","content":"hi"}]`, `[{"type":"item_reference","id":"i"}]`, `null`} {
		for _, s := range streams {
			add(`"input":`+input, s, `"prompt":`+input)
		}
	}
	return all
}

// withUsage is what Upstream should make of a body, computed with
// encoding/json: the same members but for include_usage.
func withUsage(t *testing.T, body []byte) map[string]any {
	t.Helper()
	m := parse(t, body)
	options, _ := m["stream_options"].(map[string]any)
	if options == nil {
		options = map[string]any{}
	}
	options["include_usage"] = true
	m["stream_options"] = options
	return m
}

func parse(t *testing.T, body []byte) (m map[string]any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return m
}

func TestRequest_UpstreamChangesNothingButTheSplice(t *testing.T) {
	bodies := shapes()
	if len(bodies) < 200 {
		t.Fatalf("only %d shapes", len(bodies))
	}
	splices := 0
	for _, s := range bodies {
		for _, ep := range []Endpoint{Other, Chat, Completions, Responses, Embeddings} {
			body := []byte(s)
			r, err := Decode(ep, body)
			if err != nil {
				t.Fatalf("%v %s: %v", ep, s, err)
			}
			if ep != Other && !r.Valid {
				t.Fatalf("not valid: %s", s)
			}
			up, spliced := r.Upstream()
			if string(body) != s {
				t.Fatalf("the client's bytes were changed: %s", s)
			}
			if !spliced {
				if &up[0] != &body[0] || len(up) != len(body) {
					t.Fatalf("unspliced body was copied: %s", s)
				}
				continue
			}
			splices++
			checkSplice(t, ep, body, up)
		}
	}
	if splices < 200 {
		t.Errorf("only %d splices", splices)
	}
}

func TestRequest_UpstreamSplices(t *testing.T) {
	tests := []struct{ name, body, want string }{ // want "" = as it came
		{"after stream when there are no options", `{"a":1, "stream" : true ,"b":2}`, `{"a":1, "stream" : true,"stream_options":{"include_usage":true} ,"b":2}`},
		{"instead of null", `{"stream":true,"stream_options": null }`, `{"stream":true,"stream_options": {"include_usage":true} }`},
		{"into empty options", `{"stream_options":{ },"stream":true}`, `{"stream_options":{"include_usage":true },"stream":true}`},
		{"before other options", `{"stream":true,"stream_options":{ "x":1}}`, `{"stream":true,"stream_options":{"include_usage":true, "x":1}}`},
		{"instead of false", `{"stream":true,"stream_options":{"x":1,"include_usage": false}}`, `{"stream":true,"stream_options":{"x":1,"include_usage": true}}`},
		{"instead of a null inside", `{"stream":true,"stream_options":{"include_usage":null,"x":1}}`, `{"stream":true,"stream_options":{"include_usage":true,"x":1}}`},
		{"not when the client asked", `{"stream":true,"stream_options":{"include_usage":true}}`, ``},
		{"not without stream", `{"stream":false,"stream_options":{}}`, ``},
		{"not into what is no object", `{"stream":true,"stream_options":"x"}`, ``},
		{"not over what is no boolean", `{"stream":true,"stream_options":{"include_usage":"no"}}`, ``},
		{"not beside another spelling", `{"stream":true,"Stream_Options":{}}`, ``},
		{"not beside another spelling inside", `{"stream":true,"stream_options":{"Include_Usage":false}}`, ``},
		{"not into what is no json", `{"stream":true}}`, ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, ep := range []Endpoint{Chat, Completions} {
				r, err := Decode(ep, []byte(tt.body))
				if err != nil {
					t.Fatal(err)
				}
				up, spliced := r.Upstream()
				if want := stdcmp.Or(tt.want, tt.body); string(up) != want || spliced != (tt.want != "") {
					t.Errorf("spliced %v\n%s, want\n%s", spliced, up, want)
				}
			}
			for _, ep := range []Endpoint{Other, Responses, Embeddings} {
				if r, _ := Decode(ep, []byte(tt.body)); r != nil {
					if _, spliced := r.Upstream(); spliced {
						t.Errorf("spliced a request to %v", ep)
					}
				}
			}
		})
	}
}

func TestRejectsStreamOptions(t *testing.T) {
	tests := []struct {
		status int
		body   string
		want   bool
	}{
		{400, `{"error":{"message":"Unknown parameter: 'stream_options'.","param":"stream_options"}}`, true},
		{400, `{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options')}]"}`, true},
		{422, `{"detail":[{"type":"extra_forbidden","loc":["body","stream_options","include_usage"]}]}`, true},
		{400, `Stream options are not supported`, true},
		{400, `{"error":{"message":"Unknown parameter: 'foo'."}}`, false},
		{500, `stream_options`, false},
		{200, `stream_options`, false},
	}
	for _, tt := range tests {
		if got := RejectsStreamOptions(tt.status, []byte(tt.body)); got != tt.want {
			t.Errorf("%d %s: %v", tt.status, tt.body, got)
		}
	}
}

// checkSplice holds a splice to its promise: what stands before and after one
// place is unchanged, the meaning changes by include_usage only, and a second
// look finds nothing to do.
func checkSplice(t *testing.T, ep Endpoint, body, up []byte) {
	t.Helper()
	head := 0
	for head < len(body) && body[head] == up[head] {
		head++
	}
	tail := 0
	for tail < len(body)-head && body[len(body)-1-tail] == up[len(up)-1-tail] {
		tail++
	}
	switch gone := string(body[head : len(body)-tail]); gone {
	case "", "null", "fals", "false", "nul", "ull":
	default:
		t.Fatalf("the splice took %q out of %s", gone, body)
	}
	if diff := cmp.Diff(withUsage(t, body), parse(t, up)); diff != "" {
		t.Fatalf("%s\n%s\n-want +got %s", body, up, diff)
	}
	again, err := Decode(ep, up)
	if err != nil || !again.Valid || !again.wantsUsage {
		t.Fatalf("spliced body reads badly: %v %s", err, up)
	}
	if _, spliced := again.Upstream(); spliced {
		t.Fatalf("spliced twice: %s", up)
	}
}

func TestDecode_View(t *testing.T) {
	r, err := Decode(Chat, []byte(`{"model":"gpt-4\u006f","stream":true,"stream_options":{"include_usage":true},
		"messages":[{"role":"user","content":"hi"}],"max_tokens":100.0,"max_completion_tokens":2e2,"n":3,"temperature":0,"stop":"a",
		"tools":[{"type":"function","function":{"name":"f"}}],"functions":[{"name":"g"}],"response_format":{"type":"json_object"},"reasoning_effort":"low",
		"tool_choice":{"type":"function","function":{"name":"f"}},"metadata":{"k":"v"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r.Model != "gpt-4o" || !r.Stream || !r.wantsUsage || r.MaxOutput != 200 || r.Choices != 3 || r.Effort != "low" {
		t.Errorf("view %+v", r)
	}
	if string(r.Messages) != `[{"role":"user","content":"hi"}]` || string(r.Functions) != `[{"name":"g"}]` || string(r.ResponseFormat) != `{"type":"json_object"}` ||
		string(r.Tools) != `[{"type":"function","function":{"name":"f"}}]` {
		t.Errorf("spans %s %s %s %s", r.Messages, r.Functions, r.ResponseFormat, r.Tools)
	}

	r, _ = Decode(Completions, []byte(`{"model":"m","prompt":[[1,2],[3]],"max_tokens":7,"n":2,"best_of":4,"suffix":"s"}`))
	if r.Model != "m" || r.MaxOutput != 7 || r.Choices != 4 || string(r.Prompt) != `[[1,2],[3]]` {
		t.Errorf("completions %+v", r)
	}

	r, _ = Decode(Embeddings, []byte(`{"model":"m","input":["a","b"],"dimensions":8}`))
	if r.Model != "m" || string(r.Prompt) != `["a","b"]` {
		t.Errorf("embeddings %+v", r)
	}

	r, _ = Decode(Responses, []byte(`{"model":"m","instructions":"be brief","max_output_tokens":9,"previous_response_id":"resp_1","reasoning":{"effort":"high"},
		"text":{"format":{"type":"json_object"}},"tools":[{"type":"function","name":"f","parameters":{}}],
		"input":[{"role":"user","content":"hi"},{"type":"function_call_output","call_id":"c","output":"o"}]}`))
	if r.Model != "m" || r.MaxOutput != 9 || r.PreviousResponseID != "resp_1" || r.Effort != "high" || r.OpaqueContext {
		t.Errorf("responses %+v", r)
	}
	if string(r.ResponseFormat) != `{"type":"json_object"}` || string(r.Instructions) != `"be brief"` || r.Tools == nil ||
		string(r.Messages) != `[{"role":"user","content":"hi"},{"type":"function_call_output","call_id":"c","output":"o"}]` {
		t.Errorf("spans %s %s %s %s", r.ResponseFormat, r.Instructions, r.Tools, r.Messages)
	}
	for _, body := range []string{`{"conversation":"conv_1"}`, `{"prompt":{"id":"p"}}`, `{"input":[{"type":"item_reference","id":"i"}]}`} {
		if r, _ := Decode(Responses, []byte(body)); !r.OpaqueContext {
			t.Errorf("%s: context is not opaque", body)
		}
	}
	for _, body := range []string{`{"conversation":null}`, `{"prompt":null}`, `{"text":null,"input":null}`} {
		if r, _ := Decode(Responses, []byte(body)); r.OpaqueContext || r.Messages != nil || r.ResponseFormat != nil {
			t.Errorf("%s: null is taken for something: %+v", body, r)
		}
	}
}

// The view says what the SDK's own decoder reads, wherever that reads the body.
func TestDecode_ReadsWhatTheSDKReads(t *testing.T) {
	compared := 0
	small := []string{
		`{"model":"m","max_tokens":5,"max_completion_tokens":7,"n":3,"reasoning_effort":"high"}`, `{"max_tokens":9,"max_completion_tokens":7}`,
		`{"model":"\ud83d\ude00","reasoning_effort":null,"n":null}`,
	}
	for _, body := range append(small, shapes()...) {
		var p openai.ChatCompletionNewParams
		if json.Unmarshal([]byte(body), &p) != nil {
			continue
		}
		r, err := Decode(Chat, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		type view struct {
			model, effort string
			cap, choices  int64
		}
		got := view{string(r.Model), r.Effort, r.MaxOutput, r.Choices}
		want := view{p.Model, string(p.ReasoningEffort), max(p.MaxTokens.Value, p.MaxCompletionTokens.Value), p.N.Value}
		if strings.Contains(body, "100.0") { // which the SDK cannot read: TestDecode_WhatTheSDKLoses
			want.cap = 100
		}
		if got != want {
			t.Errorf("%s: view %+v, the SDK reads %+v", body, got, want)
		}
		compared++
	}
	if compared < 200 {
		t.Errorf("only %d bodies were compared", compared)
	}
}

func TestDecode_WrongTypesAreUnknown(t *testing.T) {
	for _, v := range []string{`"x"`, `[]`, `{}`, `-1`, `1.5`, `99999999999`, `1e400`, `null`, `true`} {
		body := fmt.Sprintf(`{"model":%[1]s,"messages":%[1]s,"stream_options":%[1]s,"max_tokens":%[1]s,"n":%[1]s,"temperature":%[1]s,"stop":%[1]s,"tools":%[1]s,"tool_choice":%[1]s,"metadata":%[1]s,"logit_bias":%[1]s,"reasoning_effort":%[1]s,"max_output_tokens":%[1]s,"best_of":%[1]s,"reasoning":%[1]s,"previous_response_id":%[1]s,"text":%[1]s,"input":%[1]s}`, v)
		for _, ep := range []Endpoint{Chat, Completions, Responses, Embeddings} {
			r, err := Decode(ep, []byte(body))
			if err != nil || !r.Valid {
				t.Errorf("%v %s: %v", ep, v, err)
			} else if r.MaxOutput != 0 || r.Choices != 0 {
				t.Errorf("%v %s: max output %d, choices %d", ep, v, r.MaxOutput, r.Choices)
			}
		}
	}
}

func TestDecode_NotOneObjectIsNotValid(t *testing.T) {
	for _, body := range []string{
		``, ` `, `null`, `[]`, `"x"`, `{`, `{"a":tru}`, `{"a":1,}`, `{"a":1}{}`, `{"a":1} x`, `{"a" 1}`, `{a:1}`, `{"a":01}`, `{"a":"` + "\n" + `"}`,
		`{"a":"\x"}`, `{"a":"\u12g4"}`, `{"model":"m","model":"m"`, "\xEF\xBB\xBF{}", `{"a":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`,
	} {
		r, err := Decode(Chat, []byte(body))
		if err != nil || r.Valid || r.Model != "" || r.Messages != nil {
			t.Errorf("%.40q: %v %+v", body, err, r)
		}
		if up, spliced := r.Upstream(); spliced || string(up) != body {
			t.Errorf("%.40q went up changed", body)
		}
	}
}

func TestDecode_RefusesMeteredFieldsNamedTwice(t *testing.T) {
	tests := []struct {
		endpoint    Endpoint
		body, field string // "" = accepted
	}{
		{Chat, `{"stream":true,"stream":false}`, "stream"},
		{Chat, `{"stream":true,"str\u0065am":false}`, "stream"},
		{Chat, `{"stream":true,"STREAM":false}`, "stream"},
		{Chat, `{"Stream":true,"stream":false}`, "stream"},
		{Chat, `{"stream":true,"ſtream":false}`, "stream"},
		{Chat, `{"max_tokens":1,"max_to\u212Aens":9}`, "max_tokens"},
		{Chat, `{"model":"a","model":"a"}`, "model"},
		{Chat, `{"messages":[],"messages":null}`, "messages"},
		{Chat, `{"stream_options":{"include_usage":true,"include_usage":false}}`, "stream_options.include_usage"},
		{Chat, `{"stream_options":{"include_usage":true,"Include_Usage":false}}`, "stream_options.include_usage"},
		{Completions, `{"best_of":1,"best_of":2}`, "best_of"},
		{Responses, `{"input":"a","input":"b"}`, "input"},
		{Responses, `{"previous_response_id":"a","previous_response_id":"b"}`, "previous_response_id"},
		{Embeddings, `{"input":"a","input":"b"}`, "input"},
		{Chat, `{"temperature":1,"temperature":2}`, ""},
		{Chat, `{"top_k":1,"top_k":2}`, ""},
		{Chat, `{"input":1,"input":2}`, ""},
		{Chat, `{"max_tokens":1,"max_completion_tokens":2}`, ""},
		{Chat, `{"messages":[{"model":"a","model":"b"}]}`, ""},
		{Other, `{"model":"a","model":"b"}`, ""},
	}
	for _, tt := range tests {
		_, err := Decode(tt.endpoint, []byte(tt.body))
		var duplicate *DuplicateFieldError
		if tt.field == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.body, err)
			}
		} else if !errors.As(err, &duplicate) || duplicate.Field != tt.field {
			t.Errorf("%s: %v, want a duplicate of %s", tt.body, err, tt.field)
		}
	}
}

// What goes up must not pass through an SDK struct: this is what would be lost.
// When a line here fails, the SDK has improved.
func TestDecode_WhatTheSDKLoses(t *testing.T) {
	chat := func(b []byte) ([]byte, error) {
		var p openai.ChatCompletionNewParams
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, err
		}
		return json.Marshal(p)
	}
	response := func(b []byte) ([]byte, error) {
		var p responses.ResponseNewParams
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, err
		}
		return json.Marshal(p)
	}
	tests := []struct {
		name     string
		endpoint Endpoint
		through  func([]byte) ([]byte, error)
		body     string
		lost     string // in the body, not in what the SDK makes of it
	}{
		{"stream", Chat, chat, `{"model":"m","messages":[],"stream":true}`, `"stream"`},
		{"vendor fields", Chat, chat, `{"model":"m","messages":[],"top_k":5}`, `top_k`},
		{"nested vendor fields", Chat, chat, `{"model":"m","messages":[{"role":"user","content":"x","cache_control":{}}]}`, `cache_control`},
		{"reasoning_content", Chat, chat, `{"model":"m","messages":[{"role":"assistant","content":"x","reasoning_content":"y"}]}`, `reasoning_content`},
		{"a message without role", Chat, chat, `{"model":"m","messages":[{"content":"hello"}]}`, `hello`},
		{"a fractional spelling of a count", Chat, chat, `{"model":"m","messages":[],"max_tokens":100.0}`, `100`},
		{"a number as text", Chat, chat, `{"model":"m","messages":[],"temperature":"0.5"}`, `0.5`},
		{"a seed beyond int64", Chat, chat, `{"model":"m","messages":[],"seed":99999999999999999999}`, `99999999999999999999`},
		{"the spelling of numbers", Chat, chat, `{"model":"m","messages":[],"temperature":0.70}`, `0.70`},
		{"responses items without type", Responses, response, `{"model":"m","input":[{"role":"user","content":"hello"}]}`, `hello`},
		{"responses stream", Responses, response, `{"model":"m","input":"a","stream":true}`, `"stream"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := tt.through([]byte(tt.body))
			if err == nil && bytes.Contains(out, []byte(tt.lost)) {
				t.Errorf("the SDK keeps it: %s", out)
			}
			r, err := Decode(tt.endpoint, []byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if up, _ := r.Upstream(); !bytes.Contains(up, []byte(tt.lost)) {
				t.Errorf("lost here too: %s", up)
			}
		})
	}
}

func TestUnescape_IsWhatEncodingJSONReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SampledFrom([]string{`a`, `\"`, `\\`, `\/`, `\b`, `\f`, `\n`, `\r`, `\t`, `\u0041`, `\u00e9`, `\ud83d`, `\ude00`, `\ud83d\ude00`, `\u0000`, `é`, "\xff"})).Draw(t, "parts")
		v := []byte(`"` + strings.Join(parts, "") + `"`)
		var want string
		if err := json.Unmarshal(v, &want); err != nil {
			t.Fatal(err)
		}
		if got, ok := stringValue(v); !ok || strings.ReplaceAll(got, "\uFFFD", "") != strings.ReplaceAll(want, "\uFFFD", "") {
			t.Fatalf("%s: %q, want %q", v, got, want)
		}
	})
}
