package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// A client's credentials end here, whatever header or parameter they are in; what
// only looks like one passes.
func TestCredentials_GoNoFurther(t *testing.T) {
	const web, short = "key-canary-web-0123456789", "tok-1"
	rec, base := sidecartest.Record(t)
	s := start(t, base, "CLIENT_API_KEYS", "web="+web+",short="+short)
	auth := []string{"Authorization", "Bearer " + web}
	for _, header := range [][2]string{
		{"X-Api-Key", "sk-theirs"},
		{"x-goog-api-key", "sk-theirs"},
		{"Ocp-Apim-Subscription-Key", "sk-theirs"},
		{"OCP_APIM_SUBSCRIPTION_KEY", "sk-theirs"},
		{"Cookie", "session=1"},
		{"Proxy-Authorization", "Basic eA=="},
		{"X-Custom", web},
		{"X-Custom", "prefix" + web + "suffix"},
		{"X-Custom", "Token " + short},
		{"X-Custom", "a=b; t=\"" + short + "\""},
		{"Referer", "https://chat.example/?k=" + strings.ReplaceAll(web, "-", "%2D")},
		{"X-" + web, "1"},
	} {
		sidecartest.Send(t, "GET", s.URL+"/v1/models", "", append([]string{header[0], header[1]}, auth...)...)
		if up := fmt.Sprint(rec.Last.Header); strings.Contains(strings.ToLower(up), strings.ToLower(header[0])) || strings.Contains(up, web) {
			t.Errorf("%s: %s goes up: %s", header[0], header[1], up)
		}
	}
	kept := []string{"User-Agent", "tok-12 and xtok-1", "Openai-Organization", "org-1", "X-Portkey-Api-Key", "theirs", "Helicone-Auth", "Bearer theirs", "X-Key", "1"}
	sidecartest.Send(t, "GET", s.URL+"/v1/models", "", append(kept, auth...)...)
	for i := 0; i < len(kept); i += 2 {
		if got := rec.Last.Header.Get(kept[i]); got != kept[i+1] {
			t.Errorf("%s: %q goes up, want %q", kept[i], got, kept[i+1])
		}
	}

	for query, want := range map[string]string{
		"key=AIza":                                            "",
		"alt=sse&key=AIza&x=%20+1":                            "alt=sse&x=%20+1",
		"KEY=1&Api_Key=2&api-key=3&a=b":                       "a=b",
		"api%5Fkey=1&%6bey=2&%256Bey=3&c":                     "c",
		"access_token=x&subscription-key=y&&z":                "&z",
		"a=1;key=2&b=3":                                       "b=3",
		"x=" + web + "&y=1":                                   "y=1",
		"x=" + strings.ReplaceAll(web, "-", "%252D") + "&y=1": "y=1",
		web + "=1&y=1":                                        "y=1",
		"q=tok-1&r=tok-12":                                    "r=tok-12",
		"keys=1&monkey=2&api_key_id=3":                        "keys=1&monkey=2&api_key_id=3",
		"api-version=2024-10-21&key":                          "api-version=2024-10-21",
		"a=%zz&key=1":                                         "a=%zz",
	} {
		sidecartest.Send(t, "GET", s.URL+"/v1/models?"+query, "", auth...)
		if got := rec.Last.URL.RawQuery; got != want {
			t.Errorf("?%s goes up as ?%s, want ?%s", query, got, want)
		}
	}
	for _, header := range []string{"Api-Key", "X-Api-Key"} {
		if a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", header, web); a.StatusCode != 200 {
			t.Errorf("a key in %s: %d", header, a.StatusCode)
		}
		if up := fmt.Sprint(rec.Last.Header); strings.Contains(up, web) {
			t.Errorf("up goes %s", up)
		}
	}
}

// A session header of another name than ours may be the provider's as well.
func TestSessionHeader_OfAnotherNameGoesUp(t *testing.T) {
	rec, base := sidecartest.Record(t)
	s := start(t, base, "SESSION_HEADER", "X-Chat-Id")
	sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "X-Chat-Id", "c1")
	if rec.Last.Header.Get("X-Chat-Id") != "c1" || s.Status()["c1"].RequestCount != 1 {
		t.Errorf("up goes %v, booked %v", rec.Last.Header, s.Status())
	}
}

// Chat programs send what they have in place of a session. No request fails for it.
func TestSessionHeader_WhatIsNoIDBreaksNoRequest(t *testing.T) {
	_, base := sidecartest.Record(t)
	s := start(t, base)
	for i, value := range []string{"", "{{user}}", "${id}", "a/b", "undefined", "..", strings.Repeat("x", 129), "<user>"} {
		for _, method := range []string{"POST", "GET"} {
			path, body := "/v1/chat/completions", sidecartest.Chat
			if method == "GET" {
				path, body = "/v1/models", ""
			}
			if a := sidecartest.Send(t, method, s.URL+path, body, "X-Session-Id", value, "X-Parent-Session-Id", value); a.StatusCode != 200 {
				t.Errorf("%d %q: %d %s", i, value, a.StatusCode, a.Body)
			}
		}
	}
	if got := s.Status(); len(got) != 0 {
		t.Errorf("booked on %v", got)
	}
	for value, id := range map[string]string{"me+you@example.org": "me+you@example.org", "J%C3%BCrgen%20M": "Jürgen M", "агент": "агент", "a b": "a b"} {
		sidecartest.Send(t, "POST", s.URL+"/v1/chat/completions", sidecartest.Chat, "X-Session-Id", value)
		if s.Status()[id].RequestCount != 1 {
			t.Errorf("%q is not booked on %q: %v", value, id, s.Status())
		}
	}
	if metrics := sidecartest.Send(t, "GET", s.URL+"/metrics", "").Body; !strings.Contains(metrics, "llm_queue_proxy_session_headers_ignored_total{reason=\"placeholder\"} 8\n") {
		t.Error("8 placeholders are not counted")
	}
	lines := s.Log.Lines("a header names no session, its requests belong to none")
	if len(lines) != 3 { // one for each reason
		t.Errorf("%d lines tell of it, want one for each reason: %v", len(lines), lines)
	}
	for _, line := range lines {
		if text, _ := json.Marshal(line); strings.Contains(string(text), "user") || strings.Contains(string(text), "${") {
			t.Errorf("the log has what the client sent: %s", text)
		}
	}
}

// However an SDK puts its URLs together, one changed base URL is enough.
func TestPaths_OfEverySDK(t *testing.T) {
	rec, base := sidecartest.Record(t)
	origin := strings.TrimSuffix(base, "/v1")
	for _, c := range []struct{ base, path, up, session string }{
		{"/v1", "/v1/session/s/chat/completions", "/v1/chat/completions", "s"},
		{"/v1", "/v1/session/s/v1/chat/completions", "/v1/chat/completions", "s"},
		{"/v1", "/session/s/v1/chat/completions", "/v1/chat/completions", "s"},
		{"/v1", "/session/s/chat/completions", "/v1/chat/completions", "s"},
		{"/v1", "/session/s%20t/openai/deployments/prod%2D4o/chat/completions?api-version=2024-10-21", "/openai/deployments/prod%2D4o/chat/completions?api-version=2024-10-21", "s t"},
		{"/openai/v1", "/session/s/openai/v1/chat/completions", "/openai/v1/chat/completions", "s"},
		{"/openai", "/openai/deployments/d/embeddings", "/openai/deployments/d/embeddings", ""},
		{"", "/openai/deployments/d/completions", "/openai/deployments/d/completions", ""},
		{"/v1", "/v1/chat%2fcompletions", "/v1/chat%2fcompletions", ""},
		{"/v1", "/v1/chat/%63ompletions", "/v1/chat/%63ompletions", ""},
	} {
		s := start(t, origin+c.base)
		a := sidecartest.Send(t, "POST", s.URL+c.path, `{"messages":[]}`)
		seen := rec.Seen()
		if a.StatusCode != 200 || seen[len(seen)-1] != "POST "+c.up {
			t.Errorf("%s: %d %s, the provider saw %s", c.path, a.StatusCode, a.Body, seen[len(seen)-1])
		}
		if got := s.Status()[c.session]; c.session != "" && (got.RequestCount != 1 || got.TotalTokens != 2) {
			t.Errorf("%s: booked %+v", c.path, s.Status())
		}
		if got := s.Usage("by=model"); len(got.Rows) != 1 || got.Rows[0].RequestCount != 1 {
			t.Errorf("%s is not metered: %+v", c.path, got)
		} else if want := strings.Contains(c.path, "deployments"); (got.Rows[0].Model != nil && *got.Rows[0].Model != "") != want {
			t.Errorf("%s: its model is %+v", c.path, got.Rows[0])
		}
	}
	s := start(t, origin+"/gateway/v1")
	before := len(rec.Seen())
	for _, path := range []string{"/openai/deployments/d/chat/completions", "/session/s/openai/v1/chat/completions"} {
		a := sidecartest.Send(t, "POST", s.URL+path, sidecartest.Chat)
		if a.StatusCode != http.StatusNotFound || sidecartest.ErrorOf(t, a) != "unknown_route" || len(rec.Seen()) != before {
			t.Errorf("behind a gateway's path, %s: %d %s", path, a.StatusCode, a.Body)
		}
	}
	for _, path := range []string{"/session", "/openai", "/session/", "/session/s", "/v1"} {
		if a := sidecartest.Send(t, "GET", s.URL+path, ""); a.StatusCode != 400 && a.StatusCode != 404 && a.StatusCode != 200 {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
}

// net/http answers these before there is a handler.
func TestErrors_OfTheServerHaveTheShapeOfAllOthers(t *testing.T) {
	_, base := sidecartest.Record(t)
	s := start(t, base)
	for _, c := range []struct {
		name, text, code string
		status           int
	}{
		{"40 kB of headers", "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", "headers_too_large", 431},
		{"many headers", "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n" + strings.Repeat("X: yyyyyyyy\r\n", 6000) + "\r\n", "headers_too_large", 431},
		{"a long path", "GET /v1/" + strings.Repeat("x", 48<<10) + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "headers_too_large", 431},
		{"no host", "GET /v1/models HTTP/1.1\r\n\r\n", "bad_request", 400},
		{"a broken line", "GET /v1/models\r\n\r\n", "bad_request", 400},
		{"an unknown coding", "POST /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: x\r\n\r\n", "bad_request", 501},
		{"a second request", "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /\r\n\r\n", "bad_request", 400},
	} {
		statuses, body := s.Rawly(c.text)
		var e struct {
			Error struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil || statuses[len(statuses)-1] != c.status || e.Error.Code != c.code || e.Error.Message == "" || e.Error.Type == "" {
			t.Errorf("%s: %v %s", c.name, statuses, body)
		}
	}
}
