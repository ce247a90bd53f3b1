// Package config holds the settings: what there is (settings.go, and File for the
// keys of CONFIG_FILE), where values come from (source.go), how they are read
// (values.go), what they mean together (validate.go), and what a reload may change
// (reload.go).
//
// A new setting is a row in settings.go, a field of Config, and a setter if none of
// values.go fits. A new key of CONFIG_FILE is a field of File and a row in
// reference.go. Tests hold docs/configuration.md, the README and examples/config.yaml
// to both.
//
// A Config is never changed once it is in force: a reload makes another.
package config
