package config

import (
	"flag"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func TestReference_IsWhatTheProgramReads(t *testing.T) {
	var b strings.Builder
	if err := WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("../../docs/configuration.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != b.String() {
		t.Error("docs/configuration.md is not what the program reads: go test ./internal/config -run Reference -update")
	}
}

func TestReference_HasEveryKeyOfTheFile(t *testing.T) {
	var documented []string
	for _, k := range fileKeys {
		documented = append(documented, k.path)
	}
	if want := keyPaths(reflect.TypeFor[File](), ""); !slices.Equal(slices.Sorted(slices.Values(documented)), slices.Sorted(slices.Values(want))) {
		t.Errorf("documented %v\nthe file has %v", documented, want)
	}
}

// TestExample_HasEveryKey: examples/config.yaml is read without a fault, and
// has every key that can be in it.
func TestExample_HasEveryKey(t *testing.T) {
	const name = "../../examples/config.yaml"
	if _, err := load("OPENAI_API_KEY", "sk-1", "CLIENT_API_KEYS", "web=a,batch=b", "CONFIG_FILE", name); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var found []string
	var walk func(n *yaml.Node, at string)
	walk = func(n *yaml.Node, at string) {
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				key := n.Content[i].Value
				if at == "clients" || at == "settings" {
					key = "NAME"
				}
				walk(n.Content[i+1], strings.TrimPrefix(at+"."+key, "."))
			}
		case yaml.SequenceNode:
			for _, item := range n.Content {
				walk(item, at+"[]")
			}
		default:
			found = append(found, at)
		}
	}
	walk(doc.Content[0], "")
	for _, k := range fileKeys {
		if !slices.Contains(found, k.path) {
			t.Errorf("%s lacks %s", name, k.path)
		}
	}
	// Settings stand there with their defaults, as comments or not.
	for _, s := range settings {
		if !s.Secret && s.Name != "CONFIG_FILE" && !regexp.MustCompile(`(?m)^  #? ?`+s.Name+`: `).Match(data) {
			t.Errorf("%s lacks %s", name, s.Name)
		}
	}
}

// TestReadme_ListsEverySetting holds the README's table to the settings.
func TestReadme_ListsEverySetting(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		def := s.def
		if def == "" {
			def = "required"
		}
		if row := "| `" + s.Name + "` | " + def + " | " + s.Doc + " (" + s.form + ") |"; !strings.Contains(string(readme), row) {
			t.Errorf("the README lacks the row\n%s", row)
		}
	}
}

// keyPaths lists the keys of a type that CONFIG_FILE is decoded into.
func keyPaths(t reflect.Type, at string) []string {
	switch t.Kind() {
	case reflect.Pointer:
		return keyPaths(t.Elem(), at)
	case reflect.Slice:
		return keyPaths(t.Elem(), at+"[]")
	case reflect.Map:
		return keyPaths(t.Elem(), at+".NAME")
	case reflect.Struct:
		var paths []string
		for field := range t.Fields() {
			paths = append(paths, keyPaths(field.Type, strings.TrimPrefix(at+"."+field.Tag.Get("yaml"), "."))...)
		}
		return paths
	}
	return []string{at}
}
