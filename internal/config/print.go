package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print shows each setting, and each key of CONFIG_FILE, with its value
// and its origin, and then what is wrong with them.
func Print(stdout io.Writer, flags map[string]string, getenv func(string) string) error {
	out := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	cfg, faults := readConfig(sources{flags: flags, getenv: getenv}, nil)
	for _, s := range settings {
		value, origin, _ := cfg.sources.lookup(s) // its fault is among faults
		if origin == "" {
			value, origin = cfg.defaultText(s), "default"
		} else {
			value = s.shown(value)
		}
		fmt.Fprintf(out, "%s\t%s\t%s\n", s.Name, value, origin)
	}
	for _, row := range valuesOf(reflect.ValueOf(cfg.File), "") {
		if !strings.HasPrefix(row.path, "settings.") {
			fmt.Fprintf(out, "%s\t%s\tfile\n", row.path, row.value)
		}
	}
	if err := out.Flush(); err != nil || len(faults) == 0 {
		return err
	}
	return &Error{faults}
}

// defaultText is what holds where a setting is not set.
func (c *Config) defaultText(s Setting) string {
	switch {
	case s.def == "":
		return "none"
	case s.Name == "LISTEN_ADDR":
		return c.ListenAddr
	case s.Name == "QUEUE_MAX_BYTES":
		return fmt.Sprintf("%dMiB", c.QueueMaxBytes>>20)
	}
	return s.def
}

// A fileValue is a key of CONFIG_FILE that is set.
type fileValue struct{ path, value string }

// valuesOf lists what is set in a value that CONFIG_FILE is decoded into.
func valuesOf(v reflect.Value, at string) (rows []fileValue) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			rows = valuesOf(v.Elem(), at)
		}
	case reflect.Slice:
		for i := range v.Len() {
			rows = append(rows, valuesOf(v.Index(i), fmt.Sprintf("%s[%d]", at, i))...)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			rows = append(rows, valuesOf(v.MapIndex(key), at+"."+key.String())...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			rows = append(rows, valuesOf(v.Field(i), strings.TrimPrefix(at+"."+v.Type().Field(i).Tag.Get("yaml"), "."))...)
		}
	default:
		if !v.IsZero() {
			rows = append(rows, fileValue{at, fmt.Sprint(v)})
		}
	}
	return rows
}
