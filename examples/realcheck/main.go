// Command realcheck drives openai-go and go-openai, directly and through the
// sidecar, and writes one JSON line per call: what the SDK showed its user.
// Nothing is judged here; .ci/real/check.py compares the lines of all languages
// with each other and with the ledger. It is told everything by the environment:
//
//	DIRECT_URL    base URL of the model server, ends in /v1
//	SIDECAR_URL   origin of the sidecar
//	DENIED_URL    origin of a sidecar whose upstream key is wrong
//	METRICS_URL   Prometheus page of the model server, if it has one
//	UPSTREAM_KEY  key of the model server
//	CONTROL_URL   takes the faults of a simulated provider; with it come
//	              FAULTY_URL, FAULTY_SIDECAR_URL and REFUSALS, see faults.py
//	PLAN_FILE     the questions, shared by the drivers of all languages
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "realcheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	p, err := loadPlan(os.Getenv("PLAN_FILE"))
	if err != nil {
		return err
	}
	if err := runOpenAIGo(ctx, p, out); err != nil {
		return fmt.Errorf("openai-go: %w", err)
	}
	if err := runGoOpenAI(ctx, p, out); err != nil {
		return fmt.Errorf("go-openai: %w", err)
	}
	return nil
}

// plan is what every driver asks the model.
type plan struct {
	Model         string   `json:"model"`
	Question      string   `json:"question"`
	MaxTokens     int      `json:"max_tokens"`
	Seed          int      `json:"seed"`
	LongQuestion  string   `json:"long_question"`
	LongMaxTokens int      `json:"long_max_tokens"`
	Prompt        string   `json:"prompt"`
	Embed         []string `json:"embed"`
}

func loadPlan(path string) (plan, error) {
	var p plan
	data, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("read plan: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("decode plan: %w", err)
	}
	return p, nil
}

// A report writes the lines of one client.
type report struct {
	out               io.Writer
	sdk, via, session string
}

// line is one call as its SDK showed it. Usage is null where the SDK saw none.
type line struct {
	SDK     string            `json:"sdk"`
	Via     string            `json:"via"`
	Session string            `json:"session"`
	Step    string            `json:"step"`
	Scene   string            `json:"scene,omitempty"` // "faults" where the upstream fails on purpose
	Text    string            `json:"text,omitempty"`
	Usage   *usage            `json:"usage"`
	Body    json.RawMessage   `json:"body,omitempty"`
	Events  []json.RawMessage `json:"events,omitempty"`
	Live    *bool             `json:"live,omitempty"`
	Error   *apiError         `json:"error,omitempty"`
}

// usage is what a call cost in tokens, under the names of the sidecar's status.
type usage struct {
	Prompt     int64 `json:"prompt"`
	Completion int64 `json:"completion"`
	Total      int64 `json:"total"`
}

type apiError struct {
	Class   string `json:"class"`
	Status  int    `json:"status"`
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    string `json:"code"`
}

func (r report) write(l line) error {
	l.SDK, l.Via, l.Session = r.sdk, r.via, r.session
	return json.NewEncoder(r.out).Encode(l)
}

// busy reports whether the model is still generating: the proof that a stream
// is live. Where the model cannot be asked, it never is.
func busy(ctx context.Context) (bool, error) {
	if os.Getenv("METRICS_URL") == "" {
		return false, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("METRICS_URL"), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("UPSTREAM_KEY"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return bytes.Contains(page, []byte("llamacpp:requests_processing 1")), err
}

// control is where a simulated provider takes faults, "" if there is none.
var control = os.Getenv("CONTROL_URL")

// script lets the simulated provider's next request meet a fault.
func script(ctx context.Context, fault string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, control+"/faults?"+url.Values{"fault": {fault}}.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("script %s: %s", fault, resp.Status)
	}
	return nil
}

// fresh opens a connection per request. llama.cpp's server closes each connection
// that carried a stream although its header promises to keep it, and a Go client
// that is quick enough to reuse it gets EOF. So it is asked like this directly;
// through the sidecar the SDKs keep their own client, and coping is its task.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// version names an SDK with the version that this program was built with.
func version(name, module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return name + " " + dep.Version
			}
		}
	}
	return name
}
