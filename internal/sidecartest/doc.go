// Package sidecartest is the harness of the tests that see the sidecar from outside.
//
// It starts a sidecar in this process (Program) or in one of its own (Launch), gives
// it a provider (Scripted, Simulated, Stepwise) or a network that breaks (Cable),
// asks it (Send, Sidecar), and reads what it tells: its log, its rows, its metrics.
package sidecartest
