package sidecartest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
)

// Log keeps the program's log and tells when it serves.
type Log struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	serving chan string
	written chan struct{} // closed at the next line
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	if l.written != nil {
		close(l.written)
		l.written = nil
	}
	var line struct{ Msg, Addr string }
	if json.Unmarshal(p, &line) == nil && line.Msg == "serving" {
		l.serving <- line.Addr
	}
	return len(p), nil
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Lines returns the log lines with the given message.
func (l *Log) Lines(msg string) []map[string]any {
	var found []map[string]any
	scanner := bufio.NewScanner(strings.NewReader(l.String()))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) == nil && line["msg"] == msg {
			found = append(found, line)
		}
	}
	return found
}

// Await returns the lines with the given message once there are n of them.
func (l *Log) Await(t *testing.T, msg string, n int) []map[string]any {
	t.Helper()
	for {
		l.mu.Lock()
		if l.written == nil {
			l.written = make(chan struct{})
		}
		written := l.written
		l.mu.Unlock()
		if found := l.Lines(msg); len(found) >= n {
			return found
		}
		select {
		case <-written:
		case <-t.Context().Done():
			t.Fatalf("%q was not logged %d times", msg, n)
		}
	}
}
