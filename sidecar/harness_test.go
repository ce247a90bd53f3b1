package main

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/sidecartest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(lockHolderEnv); path != "" {
		os.Exit(holdLock(path)) // this process is the second one of a test, see store_fault_test.go
	}
	if os.Getenv(plainProxyEnv) != "" {
		os.Exit(plainProxy()) // as above, see resources_test.go
	}
	remove := goleak.Cleanup(func(code int) {
		sidecartest.RemoveProgram()
		os.Exit(code)
	})
	goleak.VerifyTestMain(m, remove, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// configOf reads settings that come as NAME, value pairs.
func configOf(settings ...string) (*config.Config, error) {
	env := sidecartest.Pairs(settings)
	return config.Load(nil, func(name string) string { return env[name] })
}

// totals is a session's status.
func totals(id string, prompt, completion, requests int64) admin.SessionStatus {
	return admin.SessionStatus{SessionID: id, PromptTokens: prompt, CompletionTokens: completion, TotalTokens: prompt + completion, RequestCount: requests}
}

// The bounds that docs/operations.md and the settings' reference promise.
const (
	idleTimeout  = 10 * time.Minute // between two bytes of an answer
	endPatience  = 2 * time.Second  // between an answer's end and that of its connection
	halfPatience = 30 * time.Second // of a websocket of which one side has ended
	drainTime    = 10 * time.Second // of an answer whose client has left
	drainBytes   = 1 << 20          // likewise
	maxHops      = 8                // of sidecars in a row

	repeatShare     = 0.2 // of the requests may be repeated after a 503
	repeatPerSecond = 10.0
	repeatsSaved    = 100
)

// start runs this program in this process, against upstream. More settings come as
// NAME, value pairs.
func start(t *testing.T, upstream string, settings ...string) *sidecartest.Sidecar {
	t.Helper()
	return sidecartest.Program(run).Start(t, upstream, settings...)
}
