// Llm-queue-proxy is an OpenAI-compatible sidecar: applications that share one
// API key point base_url at it, and rate limits stop being their problem.
// Requests wait in a weighted, fair queue instead of failing with 429, each
// session's exact token usage is in a ledger, and everything else about the
// API is unchanged, byte for byte.
//
//	llm-queue-proxy [serve]       serve; settings come from the environment
//	llm-queue-proxy demo          see it work, without a key or a network
//	llm-queue-proxy config check  say what is wrong with the settings
//	llm-queue-proxy config print  show every setting and where it comes from
//	llm-queue-proxy config reference  print docs/configuration.md
//	llm-queue-proxy healthcheck   exit 0 if the sidecar of these settings is ready
//	llm-queue-proxy queue         show the queue of a running sidecar
//	llm-queue-proxy usage         show what sessions, models, days or clients used
//	llm-queue-proxy prices import make prices for the file from a public list
//	llm-queue-proxy version
//	llm-queue-proxy completion    scripts for bash, zsh, fish and PowerShell
//
// Every setting is an environment variable; README.md lists them. Each but the
// secrets is also a flag: RATE_LIMIT_PER_MIN is --rate-limit-per-min.
//
// Exit status: 0 done, 1 failed, 2 wrong usage, 78 wrong settings.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
)

const (
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG of sysexits.h
)

func main() {
	harden()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitStatus(err))
	}
}

func exitStatus(err error) int {
	var (
		wrong *config.Error
		usage *usageError
	)
	switch {
	case errors.As(err, &wrong):
		return exitConfig
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// run is the program without its process: everything it uses comes in.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	root := commands(getenv, stdout, stderr)
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// runServe serves with the given settings until ctx ends. Beside them, getenv
// tells of a service manager.
func runServe(ctx context.Context, cfg *config.Config, getenv func(string) string, stderr io.Writer) error {
	hangup, ignoreHangup := notifyHangup()
	defer ignoreHangup()
	level := new(slog.LevelVar)
	logger := newLogger(cfg, level, stderr)
	config.BoundHeap()
	main, admin, err := listen(cfg, getenv)
	if err != nil {
		return err
	}
	s, err := build(ctx, cfg, logger, level)
	if err == nil {
		if s.systemd, err = newSystemd(getenv); err != nil {
			err = errors.Join(err, s.close())
		}
	}
	if err != nil {
		main.Close()
		if admin != nil {
			admin.Close()
		}
		return err
	}
	defer s.systemd.close()
	if strings.Trim(cfg.BaseURL.Path, "/") == "" {
		logger.Warn("OPENAI_BASE_URL has no path, most providers' ends with /v1: is it whole?", "upstream", cfg.BaseURL.String())
	}
	logger.Info("serving", "addr", main.Addr().String(), "upstream", cfg.BaseURL.String(), "limits", cfg.LimitsText(), "repository", s.ledger.Place(), "proxy", cmp.Or(cfg.ProxyText(), "none"))

	stop := make(chan struct{})
	var helpers sync.WaitGroup
	helpers.Go(func() { s.saveRegularly(stop) })
	helpers.Go(func() { s.proxy.Greet(ctx) })
	helpers.Go(func() { s.reloadOnHangup(stop, hangup) })
	helpers.Go(func() { s.systemd.report(stop, s.statusLine) })
	s.systemd.ready(s.statusLine())
	err = s.serve(ctx, main, admin)
	close(stop)
	helpers.Wait()
	err = errors.Join(err, s.close())
	logger.Info("stopped")
	return err
}

// listen takes the sockets of a service manager, or opens those of cfg. The
// addresses of inherited ones are put into cfg and meet the same rules.
func listen(cfg *config.Config, getenv func(string) string) (main, admin net.Listener, err error) {
	if main, admin, err = inherit(getenv); err != nil {
		return nil, nil, &config.Error{Faults: []string{err.Error()}}
	}
	if main != nil {
		cfg.ListenAddr = main.Addr().String()
		if admin != nil {
			cfg.AdminAddr = admin.Addr().String()
		}
		if faults := cfg.Validate(); len(faults) > 0 {
			err = &config.Error{Faults: faults}
		}
	} else if main, err = net.Listen("tcp", cfg.ListenAddr); err != nil {
		return nil, nil, fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	if err == nil && admin == nil && cfg.AdminAddr != "" {
		if admin, err = net.Listen("tcp", cfg.AdminAddr); err != nil {
			err = fmt.Errorf("ADMIN_ADDR: %w", err)
		}
	}
	if err != nil {
		main.Close()
		if admin != nil {
			admin.Close()
		}
		return nil, nil, err
	}
	return main, admin, nil
}

func newLogger(cfg *config.Config, level *slog.LevelVar, w io.Writer) *slog.Logger {
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked by the setting
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "text" || cfg.LogFormat == "auto" && terminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
