//go:build linux

// Bench measures what the sidecar costs beside the standard library's reverse proxy: the
// floor for a proxy in Go.
//
//	go run ./internal/bench            the whole table, some minutes
//	go run ./internal/bench -tls       the same with a provider of https, as most are
//	go run ./internal/bench -rounds 1  a first look
//	go run ./internal/bench -beside F  and another build of the sidecar, the file F, in the same rounds
//
// Everything is a process of its own: a provider that answers at once, the plain proxy, and the
// sidecar with its ledger in memory and in SQLite, each with the defaults a user gets and limits
// that are never reached. In each round all of them get the same load, one after the other, in
// an order that turns; CPU is what the operating system booked for the process. A figure is the
// median over the rounds of the ratio to the plain proxy in the same round. Ratios are all
// that other machines have in common with this one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) > 2 && args[0] == roleProvider {
		return serve(ctx, newProvider(), args[1], args[2])
	}
	if len(args) > 1 && args[0] == rolePlain {
		handler, err := newPlainProxy(args[1])
		if err != nil {
			return err
		}
		return serve(ctx, handler, "", "")
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 7, "`times` that each target is measured")
	scale := flags.Float64("scale", 1, "requests of each measurement, as a `factor`")
	secure := flags.Bool("tls", false, "a provider of https, which speaks HTTP/2")
	program := flags.String("program", "", "`path` of a built sidecar (built from ./sidecar if absent)")
	beside := flags.String("beside", "", "`path` of another built sidecar, to compare with")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *rounds < 1 || *scale <= 0 {
		return errors.New("rounds and scale have to be positive")
	}
	targets, stop, err := startTargets(ctx, *program, *beside, *secure)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintf(stdout, "%s, %d CPUs, %d rounds\n", runtime.Version(), runtime.NumCPU(), *rounds)
	results, err := measure(ctx, targets, *rounds, *scale)
	if err != nil {
		return err
	}
	results.print(stdout, targets)
	return checkBooks(ctx, stdout, targets)
}
