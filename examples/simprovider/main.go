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
	"os"
	"os/signal"
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
	host, _, err := net.SplitHostPort(*address)
	if err != nil {
		return fmt.Errorf("-addr: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("-addr: want a loopback address: whoever reaches a simulated provider is believed")
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
	server := provider.New(cfg)
	baseURL, closeAll, err := server.Listen(*address)
	if err != nil {
		return err
	}
	fmt.Println(baseURL)
	<-ctx.Done()
	totals := server.Totals()
	fmt.Printf("%d requests admitted, %d prompt and %d completion tokens\n", totals.Accepted, totals.PromptTokens, totals.CompletionTokens)
	return closeAll()
}
