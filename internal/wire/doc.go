// Package wire is the OpenAI wire as the sidecar meets it.
package wire
