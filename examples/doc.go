// Package examples shows llm-queue-proxy in use, and holds the checks that need
// the program, the public packages and the SDKs together. The examples are the
// folders below: each is one small program that an application could start from.
//
// Its tests build the real sidecar, run it in front of the simulated provider and
// call it as its users do.
package examples
