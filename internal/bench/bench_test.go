//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == roleProvider || os.Args[1] == rolePlain) {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// TestBench_RunsAndItsBooksAgree makes a small run: every figure is there, and all that was answered
// is booked. How fast anything is it does not ask.
func TestBench_RunsAndItsBooksAgree(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sidecar")
	if out, err := exec.Command("go", "build", "-o", program, "../../sidecar").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, flags := range [][]string{nil, {"-tls"}, {"-beside", program}} {
		books := 2
		if slices.Contains(flags, "-beside") {
			books = 4
		}
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"-rounds", "2", "-scale", "0.01", "-program", program}, flags...), &out); err != nil {
			t.Fatalf("%v: %v\n%s", flags, err, &out)
		}
		for _, what := range rows {
			if !strings.Contains(out.String(), "| "+what.name+" |") {
				t.Errorf("%v: no row %q", flags, what.name)
			}
		}
		if strings.Contains(out.String(), "NaN") || strings.Count(out.String(), "answers booked") != books {
			t.Errorf("%v:\n%s", flags, &out)
		}
	}
}
