package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

// everything sends requests that end in every way this program knows, and returns
// whatever it said: answers, log, metrics.
func everything(t *testing.T, settings ...string) (said string, s *sidecartest.Sidecar) {
	t.Helper()
	var text strings.Builder
	_, base := sidecartest.Simulated(t, provider.Config{Faults: []provider.Fault{
		provider.Sound(), provider.ServerError(500), provider.Hangup(), provider.CutAfterBytes(30), provider.Garbage(), provider.Throttle(1e6), provider.Quota(),
		provider.WithHeader(http.Header{"X-Echo": {"sk-upstream-canary"}}), provider.Status(401, nil, ""),
	}})
	s = start(t, base, append([]string{"LOG_LEVEL", "debug", "MAX_BODY_BYTES", "1MiB", "CLIENT_API_KEYS", "web=key-canary-1"}, settings...)...)
	auth := []string{"Authorization", "Bearer key-canary-1"}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/session/s/chat/completions", "prompt-canary"},
		{"POST", "/v1/session/s/responses", `{"model":"gpt-4o","input":"prompt-canary"}`},
		{"POST", "/v1/session/s/completions", `{"model":"gpt-4o","stream":true,"prompt":"prompt-canary"}`},
		{"POST", "/v1/session/s/embeddings", `{"model":"text-embedding-3-small","input":"prompt-canary"}`},
		{"POST", "/v1/session/s/chat/completions", strings.Replace(sidecartest.Chat, "say", "prompt-canary say", 1)},
		{"POST", "/v1/session/s/chat/completions", strings.Replace(sidecartest.ChatStream, "say", "prompt-canary say", 1)},
		{"POST", "/v1/moderations", `{"input":"prompt-canary"}`},
		{"POST", "/v1/session/s/chat/completions", `{"model":"gpt-4o","messages":[{"role":"user","content":"prompt-canary"}],"model":"twice"}`},
		{"POST", "/v1/session/s/chat/completions", strings.Repeat("prompt-canary", 100_000)},
		{"POST", "/v1/session/a%20b/chat/completions", `"prompt-canary"`},
		{"GET", "/v1/models/..", ""},
		{"GET", "/nothing", ""},
		{"GET", "/queue/status", ""},
		{"GET", "/usage?by=model,client", ""},
		{"GET", "/usage?from=x", ""},
		{"GET", "/sessions", ""},
		{"GET", "/sessions/s/requests", ""},
		{"GET", "/metrics", ""},
		{"GET", "/readyz", ""},
	} {
		for range 2 {
			a, err := sidecartest.Try(t.Context(), c.method, s.URL+c.path, c.body, auth...)
			body := a.Body
			if strings.HasPrefix(c.path, "/v1/") && a.Response != nil && a.StatusCode == 200 {
				body = "" // the provider's words to its client
			}
			if a.Response != nil {
				fmt.Fprintln(&text, a.StatusCode, a.Header, body)
			}
			_ = err
		}
		sidecartest.Try(t.Context(), c.method, s.URL+c.path, c.body, "Authorization", "Bearer wrong-key-canary") // its log line matters
	}
	fmt.Fprintln(&text, s.Log.String())
	return text.String(), s
}

func TestRequirement_05_KeysAreNowhere(t *testing.T) {
	t.Parallel()
	said, s := everything(t)
	for _, key := range []string{"sk-upstream-canary", "key-canary"} {
		if i := strings.Index(said, key); i >= 0 {
			t.Errorf("%s is in …%s…", key, said[max(0, i-200):min(len(said), i+100)])
		}
	}
	if len(s.Log.Lines("request")) < 10 {
		t.Error("too little was logged to prove anything")
	}
	env := map[string]string{
		"OPENAI_API_KEY": "sk-upstream-canary", "CLIENT_API_KEYS": "a=key-canary-1,key-canary-2", "ADMIN_API_KEYS": "b=key-canary-3", "POSTGRES_DSN": "postgres://u:pw-canary@h/d",
		"REPOSITORY_TYPE": "postgres", "OPENAI_BASE_URL": "https://u:pw-canary@h/v1?key=pw-canary", "RATE_LIMIT_PER_MIN": "x",
	}
	for _, args := range [][]string{{"config", "print"}, {"config", "check"}, {"serve"}, {"--help"}, {"queue"}, {"--openai-api-key", "sk-upstream-canary"}} {
		var out bytes.Buffer
		err := run(t.Context(), args, func(name string) string { return env[name] }, &out, &out)
		if text := out.String() + fmt.Sprint(err); strings.Contains(text, "canary-") || strings.Contains(text, "pw-canary") || strings.Contains(text, "sk-upstream-canary") && args[0] != "--openai-api-key" {
			t.Errorf("%v shows a secret: %s", args, text)
		}
	}
	secret := struct {
		A config.Secret
		B *config.Secret
		C []config.Secret
	}{"canary", new(config.Secret), []config.Secret{"canary"}}
	*secret.B = "canary"
	data, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if text := fmt.Sprintf(verb, secret) + fmt.Sprintf(verb, secret.A) + string(data); strings.Contains(text, "canary") || strings.Contains(text, "63616e617279") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func TestRequirement_06_PromptsAreNowhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	said, s := everything(t, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(dir, "sessions.db"))
	if i := strings.Index(said, "prompt-canary"); i >= 0 {
		t.Errorf("a prompt is in …%s…", said[max(0, i-200):min(len(said), i+100)])
	}
	for _, when := range []string{"while it runs", "after its end"} {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(files) < 2 {
			t.Fatalf("%v %v", files, err)
		}
		for _, file := range files {
			if data, _ := os.ReadFile(file); bytes.Contains(data, []byte("canary")) {
				t.Errorf("a canary is in %s %s", filepath.Base(file), when)
			}
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRequirement_07_LogLinesCannotBeForged(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "LOG_LEVEL", "debug")
	forged := "x\n{\"level\":\"INFO\",\"msg\":\"forged\"}\r\n\x1b[31mred\u2028\u2029\u0085" + strings.Repeat("long", 250_000)
	model, err := json.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", `{"model":`+string(model)+`,"messages":[]}`)
	sidecartest.Send(t, "GET", s.URL+"/v1/models/%0a%7b%22msg%22:%22forged%22%7d%1b", "", "X-Queue-Priority", "forged")
	sidecartest.Send(t, "GET", s.URL+"/sessions/x%0aforged/status", "")
	for line := range strings.Lines(s.Log.String()) {
		if !json.Valid([]byte(line)) || len(line) > 4096 || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\n\r\x1b\u2028\u2029") {
			t.Errorf("a line of %d bytes: %.200q", len(line), line)
		}
	}
	if len(s.Log.Lines("forged")) > 0 {
		t.Error("a client wrote a line of its own")
	}
}

// An id is printable UTF-8 without what paths are made of. In a path anything else is
// 400 (contract, Routes).
func TestRequirement_08_SessionIDsAreOpaque(t *testing.T) {
	sim, base := sidecartest.Simulated(t, provider.Config{})
	dir := t.TempDir()
	s := start(t, base, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(dir, "sessions.db"))
	for _, id := range []string{"..%2Fx", "%00", "a%00b", "a%3Fb", "a%23b", "%E2%80%AE", "%C2%A0", "%ff", "a%2Fb", "a%5Cb", "a%0ab", "%1b[31m", ".", "..", "%2e", strings.Repeat("a", 129), strings.Repeat("%C3%A9", 65)} {
		a := sidecartest.Send(t, "POST", s.URL+"/v1/session/"+id+"/chat/completions", sidecartest.Chat)
		if a.StatusCode != 400 {
			t.Errorf("%s: %d", id, a.StatusCode)
		}
		sidecartest.ErrorOf(t, a)
	}
	fine := []string{"a", strings.Repeat("a", 128), "A-1.b_c:d@e", "...", "status", "' OR 1=1", `";DROP TABLE`, "😀", "é", "a ", "$(x)", "a*b", "=1+1", "{{id}}"}
	for _, id := range fine {
		path := url.PathEscape(id)
		if a := sidecartest.Send(t, "POST", s.URL+"/v1/session/"+path+"/chat/completions", sidecartest.Chat); a.StatusCode != 200 || s.Status()[id].RequestCount != 1 {
			t.Errorf("%s: %d", id, a.StatusCode)
		}
		if a := sidecartest.Send(t, "GET", s.URL+"/sessions/"+path+"/status", ""); a.StatusCode != 200 {
			t.Errorf("%s: its status is answered with %d", id, a.StatusCode)
		}
	}
	if n := len(sim.Ledger()); n != len(fine) {
		t.Errorf("%d requests went up, want %d", n, len(fine))
	}
	if metrics := sidecartest.Send(t, "GET", s.URL+"/metrics", "").Body; strings.Contains(metrics, "A-1.b_c") {
		t.Error("a session is in the metrics")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.HasPrefix(filepath.Base(file), "sessions.db") {
			t.Errorf("a file %s", file)
		}
	}
}

func TestRequirement_09_SQLIsBound(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, append(sidecartest.SQLite(t), "CLIENT_API_KEYS", "web=key-canary-1")...)
	auth := []string{"Authorization", "Bearer key-canary-1"}
	sidecartest.Send(t, "POST", s.URL+"/v1/session/s/chat/completions", sidecartest.Chat, auth...)
	before := sidecartest.Send(t, "GET", s.URL+"/sessions", "", auth...).Body
	for _, evil := range []string{"'", "' OR '1'='1", "1; DROP TABLE sessions", "\" OR 1=1 --", "') UNION SELECT 1 --", "0x27", "%27", "\\'", "\x00", "1 OR 1=1", "s' --"} {
		query := fmt.Sprintf("limit=%[1]s&cursor=%[1]s&from=%[1]s&to=%[1]s&by=%[1]s", escape(evil))
		for _, path := range []string{"/sessions", "/sessions/" + escape(evil) + "/requests", "/sessions/s/requests", "/usage", "/sessions/" + escape(evil) + "/status"} {
			if a := sidecartest.Send(t, "GET", s.URL+path+"?"+query, "", auth...); a.StatusCode >= 500 || a.StatusCode == 200 && strings.Contains(path, escape(evil)) {
				t.Errorf("%s with %q: %d %s", path, evil, a.StatusCode, a.Body)
			}
		}
		if !strings.ContainsAny(evil, "\x00") {
			// CVE-2026-42208 was an injection into the very check of the key.
			for _, header := range []string{"Authorization", "Api-Key"} {
				value := evil
				if header == "Authorization" {
					value = "Bearer " + evil
				}
				if a := sidecartest.Send(t, "GET", s.URL+"/sessions", "", header, value); a.StatusCode != 401 {
					t.Errorf("%s %q: %d", header, evil, a.StatusCode)
				}
			}
			sidecartest.Send(t, "POST", s.URL+"/v1/session/s2/chat/completions", `{"model":"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(evil)+`","messages":[]}`, auth...)
		}
		sidecartest.Send(t, "DELETE", s.URL+"/sessions/"+escape(evil), "", auth...)
	}
	sidecartest.Send(t, "DELETE", s.URL+"/sessions/s2", "", auth...)
	if after := sidecartest.Send(t, "GET", s.URL+"/sessions", "", auth...).Body; after != before {
		t.Errorf("before %s, after %s", before, after)
	}
	// And by reading: no value is printed into a query.
	for _, file := range programText(t, "../internal/ledger") {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"NewRaw", "ExecContext", "QueryContext", "QueryRowContext", "Where", "OrderExpr", "ColumnExpr", "Safe"}, sel.Sel.Name) {
				return true
			}
			for _, arg := range call.Args {
				ast.Inspect(arg, func(n ast.Node) bool {
					if inner, ok := n.(*ast.CallExpr); ok {
						if f, ok := inner.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" {
							t.Errorf("%s: a query is printed in %s", file, sel.Sel.Name)
						}
					}
					return true
				})
			}
			return true
		})
	}
}

func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

// rooms are the folders that are this program and nothing else.
var rooms = []string{".", "../internal/admin", "../internal/config", "../internal/httpapi", "../internal/metrics", "../internal/proxy"}

// programText lists the program text of directories.
func programText(t *testing.T, dirs ...string) []string {
	t.Helper()
	var files []string
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no sources in %s: %v", dir, err)
		}
		files = append(files, found...)
	}
	return slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
}

func TestRequirement_13_KeysAreComparedWithoutTellingThem(t *testing.T) {
	_, base := sidecartest.Simulated(t, provider.Config{})
	s := start(t, base, "CLIENT_API_KEYS", "web=key-canary-1")
	var first string
	for _, key := range []string{"", "k", "key-canary-", "key-canary-2", "key-canary-1x", strings.Repeat("k", 8000), "KEY-CANARY-1", " key-canary-1", "web=key-canary-1", "web"} {
		a := sidecartest.Send(t, "GET", s.URL+"/v1/models", "", "Authorization", "Bearer "+key)
		a.Header.Del("Date")
		answer := fmt.Sprint(a.StatusCode, a.Header, a.Body)
		if first == "" {
			first = answer
		}
		if a.StatusCode != 401 || answer != first {
			t.Errorf("%.20q: %s, others %s", key, answer, first)
		}
	}
	text, err := os.ReadFile("../internal/httpapi/access.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("subtle.ConstantTimeCompare(given[:], known[:])")) || !bytes.Contains(text, []byte("sha256.Sum256([]byte(key))")) {
		t.Error("keys are not compared by digest in constant time")
	}
}

func TestRequirement_21_FailsClosed(t *testing.T) {
	empty := sidecartest.WriteFile(t, "keys", "\n")
	for name, settings := range map[string][]string{
		"a list without a key":      {"CLIENT_API_KEYS", " , "},
		"a key without a text":      {"CLIENT_API_KEYS", "web="},
		"a file without a key":      {"CLIENT_API_KEYS_FILE", empty},
		"admins without a key":      {"ADMIN_API_KEYS", " , "},
		"a file without admins":     {"ADMIN_API_KEYS_FILE", empty},
		"a file that is not there":  {"CLIENT_API_KEYS_FILE", filepath.Join(t.TempDir(), "none")},
		"a provider's key of space": {"OPENAI_API_KEY", " "},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := configOf(append([]string{"OPENAI_API_KEY", "sk-1"}, settings...)...)
			if name == "a key without a text" && err == nil { // a key that ends in "="
				if len(cfg.ClientKeys) != 1 {
					t.Error("served without keys")
				}
				return
			}
			if err == nil {
				t.Errorf("accepted, with %d client keys", len(cfg.ClientKeys))
			}
		})
	}
	t.Run("a ledger that cannot be opened", func(t *testing.T) {
		err := run(t.Context(), nil, func(name string) string {
			return map[string]string{"OPENAI_API_KEY": "sk-1", "PORT": "0", "REPOSITORY_TYPE": "sqlite", "SQLITE_DSN": t.TempDir() + "/no/such/dir/x.db"}[name]
		}, io.Discard, io.Discard)
		if err == nil || exitStatus(err) != exitConfig || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRequirement_22_FilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	_, base := sidecartest.Simulated(t, provider.Config{})
	p := sidecartest.Child(t, base, "REPOSITORY_TYPE", "sqlite", "SQLITE_DSN", filepath.Join(dir, "sessions.db"))
	sidecartest.Send(t, "POST", p.URL+"/v1/session/s/chat/completions", sidecartest.Chat)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v %v", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", filepath.Base(file), info.Mode())
		}
	}
	// A core dump would hold keys and prompts.
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Cmd.Process.Pid))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core dumps are possible: %v\n%s", err, limits)
	}
	// Nothing secret is on the command line, for ps to see.
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Cmd.Process.Pid)); err != nil || bytes.Contains(line, []byte("canary")) {
		t.Errorf("command line %q, %v", line, err)
	}
}

// maxModules bounds what is linked into the program; a new dependency has to raise it.
const maxModules = 42

func TestRequirement_23_DependenciesAreFew(t *testing.T) {
	out, err := exec.Command(goProgram(t), "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	slices.Sort(modules)
	if modules = slices.Compact(modules); len(modules) > maxModules {
		t.Errorf("%d modules are linked: %v", len(modules), modules)
	}
	for _, dir := range []string{"../client", "../middleware"} {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil || bytes.Contains(text, []byte("require")) {
			t.Errorf("%s requires modules, %v", dir, err)
		}
	}
}

// TestRequirement_24_AdvisoriesOfOthers has the published holes of programs like
// this one, each tried on it. Those that are a test of their own above are named.
func TestRequirement_24_AdvisoriesOfOthers(t *testing.T) {
	holes := []struct{ advisory, hole, heldBy string }{
		{"CVE-2026-42208 LiteLLM", "SQL injection in the check of the key", "TestRequirement_09_SQLIsBound"},
		{"GHSA-4xpc-pv4p-pm3w LiteLLM", "authentication passed by a Host header", "TestRequirement_12_EveryRouteFailsClosed"},
		{"GHSA-xqmj-j6mv-4862, GHSA-46cm-pfwv-cgf8 LiteLLM", "templates from requests", "TestRequirement_14_SpeaksToTheProviderOnly"},
		{"GHSA-v4p8-mg3p-g94g LiteLLM", "commands from requests", "TestRequirement_14_SpeaksToTheProviderOnly"},
		{"LiteLLM #5418, #24952, #26996, GHSA-h7x2-h6g9-p789 MLflow, CVE-2024-37895 LobeChat", "the key goes to an api_base of the request", "TestRequirement_01_UpstreamOnlyFromConfig"},
		{"CVE-2025-66405, #1718 Portkey", "x-portkey-custom-host", "TestRequirement_01_UpstreamOnlyFromConfig"},
		{"#1507 Portkey", "a request that goes round", "TestRequirement_19_LoopsEnd"},
		{"LiteLLM #2114, #15799, #25203, #39964", "keys in logs", "TestRequirement_05_KeysAreNowhere"},
		{"GHSA-vj9g-7rqh-x2p4, #518 Bifrost, #797 9router", "administration without a key", "TestRequirement_12_EveryRouteFailsClosed"},
		{"#3954 Bifrost", "the provider's answer echoes the key", "TestRequirement_04_HeadersCarryNoKey"},
		{"CVE-2024-28224 Ollama", "DNS rebinding", "TestRequirement_11_HostsAndOrigins"},
		{"Ollama, 175,000 open instances", "0.0.0.0 without a key", "TestRequirement_10_LoopbackUnlessTold"},
		{"LiteLLM #14457, open-ace #3422", "usage lost by an early disconnect", "TestStream_ClientThatLeavesMidAnswer"},
		{"LiteLLM #36008", "reading on without bound", "TestDrain_IsBoundedInBytes"},
		{"LiteLLM #37992", "zero usage taken for none", "TestFault_09_UsageInEveryForm"},
		{"aisix #594", "streams without include_usage", "TestFault_10_UsageWasNotAskedFor"},
		{"Bifrost #4846", "usage of streamed responses", "TestSDK_OpenAIGoSeesTheSameAsDirectly"},
	}
	tests := testNames(t)
	for _, h := range holes {
		if !tests[h.heldBy] {
			t.Errorf("%s (%s): no test %s", h.advisory, h.hole, h.heldBy)
		}
	}
}

// testNames lists every test function of the repository, and of its scripts the names of steps.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]*)\(`)
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil || len(names) < 100 {
		t.Fatalf("%d tests found, %v", len(names), err)
	}
	return names
}
