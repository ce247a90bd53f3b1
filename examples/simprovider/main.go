// Simprovider serves the simulated provider on a loopback port: an upstream
// without a key or a bill, for trying the sidecar and its deployments.
//
//	go run ./simprovider -interval 100ms &
//	OPENAI_BASE_URL=http://127.0.0.1:9090/v1 OPENAI_API_KEY=simulated llm-queue-proxy
//
// "Say 40 words." is answered with 40 tokens, one every interval; see the
// documentation of internal/provider for what else a prompt can ask for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

var (
	address  = flag.String("addr", "127.0.0.1:9090", "loopback address to serve on; port 0 takes a free one")
	key      = flag.String("key", "", "the one key to accept; empty: any or none")
	first    = flag.Duration("first", 0, "time to the first token")
	interval = flag.Duration("interval", 0, "time from token to token")
	requests = flag.Int64("requests", 0, "requests per minute, more get 429; 0: no limit")
	models   = flag.String("models", "", "comma-separated names of the models there are; empty: every name is one")
	scripted = flag.String("control", "", "second loopback address, for tests: it takes faults and tells totals; its URL is the second line printed")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		log.Fatal(err)
	}
}

// serve prints the base URL, serves until ctx ends and prints what was served.
func serve(ctx context.Context) error {
	for name, address := range map[string]string{"-addr": *address, "-control": *scripted} {
		if err := checkLoopback(address); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	cfg := provider.Config{
		Account:       provider.AccountConfig{RPM: *requests, Burst: time.Minute},
		TTFT:          *first,
		TokenInterval: *interval,
		MaxEntries:    1000,
	}
	if *key != "" {
		cfg.Keys = []string{*key}
	}
	if *models != "" {
		cfg.Models = strings.Split(*models, ",")
	}
	server := provider.New(cfg)
	baseURL, closeAll, err := server.Listen(*address)
	if err != nil {
		return err
	}
	fmt.Println(baseURL)
	if *scripted != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *scripted)
		if err != nil {
			return fmt.Errorf("-control: %w", err)
		}
		controller := &http.Server{Handler: control(server), ReadHeaderTimeout: 10 * time.Second}
		defer controller.Close()
		go func() { _ = controller.Serve(l) }()
		fmt.Printf("http://%s\n", l.Addr())
	}
	<-ctx.Done()
	totals := server.Totals()
	fmt.Printf("%d requests admitted, %d prompt and %d completion tokens\n", totals.Accepted, totals.PromptTokens, totals.CompletionTokens)
	return closeAll()
}

// checkLoopback refuses addresses that others can reach: whoever reaches a
// simulated provider is believed. No address is fine.
func checkLoopback(address string) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("want a loopback address")
	}
	return nil
}
