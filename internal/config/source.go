package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Sources are where settings come from, the first that has one wins: flags
// (keyed by the setting's name), the environment, the settings of CONFIG_FILE.
type sources struct {
	flags  map[string]string
	getenv func(string) string
	file   map[string]string
}

// lookup finds a setting's text, "" if nobody sets it, and who says so. A
// secret is also read from the file that X_FILE names.
func (src sources) lookup(s Setting) (value, origin, fault string) {
	path := ""
	if name := s.file(); name != "" {
		path = src.getenv(name)
	}
	switch {
	case src.flags[s.Name] != "":
		value, origin = src.flags[s.Name], "flag"
	case src.getenv(s.Name) != "":
		value, origin = src.getenv(s.Name), "environment"
	case path == "" && src.file[s.Name] != "":
		value, origin = src.file[s.Name], "file"
	}
	switch {
	case path == "":
		return value, origin, ""
	case value != "":
		return "", "", fmt.Sprintf("%s and %s_FILE are both set; want one of them", s.Name, s.Name)
	}
	value, err := readSecret(path)
	if err != nil {
		return "", s.Name + "_FILE", fmt.Sprintf("%s_FILE=%q: %v", s.Name, path, err)
	}
	return value, s.Name + "_FILE", ""
}

var errEmpty = errors.New("the file is empty")

// readSecret reads a file that holds one secret. One line end behind it is not
// part of it. An empty file is an error: it is one that is being written, and
// no keys at all would let everybody in.
func readSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if strings.TrimSpace(text) == "" {
		return "", errEmpty
	}
	return text, nil
}

// ReadKey reads a file that holds a key to be sent in a header, as readSecret does.
func ReadKey(path string) (string, error) {
	key, err := readSecret(path)
	if err == nil && strings.ContainsFunc(key, unfitForHeader) {
		err = errForm
	}
	return key, err
}

// settingsFaults checks the names under "settings" of the file called name.
func (f *File) settingsFaults(name string) []string {
	var faults []string
	for key := range f.Settings {
		s, known := settingNamed(key)
		switch {
		case !known:
			faults = append(faults, fmt.Sprintf("%s: settings.%s: unknown setting", name, key))
		case s.Secret:
			faults = append(faults, fmt.Sprintf("%s: settings.%s: a secret; want %s_FILE in the environment", name, key, key))
		case s.Name == "CONFIG_FILE":
			faults = append(faults, fmt.Sprintf("%s: settings.%s: want it in the environment or as a flag", name, key))
		}
	}
	return faults
}

func settingNamed(name string) (Setting, bool) {
	for _, s := range settings {
		if s.Name == name {
			return s, true
		}
	}
	return Setting{}, false
}
