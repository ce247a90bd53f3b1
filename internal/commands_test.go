package internal

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	command    = regexp.MustCompile(`go test [^&` + "`" + `]*`)
	folder     = regexp.MustCompile(` \./([a-z][a-z0-9/]*)`)
	selection  = regexp.MustCompile(` -(run|bench) (?:'([^']+)'|"([^"]+)"|(\S+))`)
	declared   = regexp.MustCompile(`(?m)^func ((Test|Benchmark)\w+)\(`)
	everything = []string{"^$", "xxx", "."}
)

// unmatched says which alternatives of the commands in a text select no test: `go test` passes
// if it finds nothing to run. tests lists the tests of a folder.
func unmatched(text string, tests func(folder string) []string) (found int, missing []string) {
	for _, line := range command.FindAllString(text, -1) {
		var names []string
		for _, m := range folder.FindAllStringSubmatch(line, -1) {
			names = append(names, tests(m[1])...)
		}
		for _, m := range selection.FindAllStringSubmatch(line, -1) {
			kind, pattern := map[string]string{"run": "Test", "bench": "Benchmark"}[m[1]], strings.ReplaceAll(m[2]+m[3]+m[4], `\|`, "|")
			if slices.Contains(everything, pattern) {
				continue
			}
			alternatives := []string{pattern}
			if !strings.Contains(pattern, "(") {
				alternatives = strings.Split(pattern, "|")
			}
			for _, alternative := range alternatives {
				found++
				top, _, _ := strings.Cut(alternative, "/") // what follows names subtests
				wanted, err := regexp.Compile(top)
				if err != nil || !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, kind) && wanted.MatchString(name) }) {
					missing = append(missing, alternative+" in "+line)
				}
			}
		}
	}
	return found, missing
}

// TestCommands_SelectTestsThatAreThere reads the commands of the scripts and the pages.
func TestCommands_SelectTestsThatAreThere(t *testing.T) {
	known := map[string][]string{}
	tests := func(folder string) []string {
		if names, ok := known[folder]; ok {
			return names
		}
		files, _ := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
				known[folder] = append(known[folder], m[1])
			}
		}
		return known[folder]
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	files := append(pages, "../README.md", "../SECURITY.md")
	err = filepath.WalkDir("../.ci", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n, missing := unmatched(string(text), tests)
		found += n
		for _, m := range missing {
			t.Errorf("%s: no test matches %s", file, m)
		}
	}
	if found < 20 {
		t.Errorf("%d selections were looked at", found)
	}
}

// TestRun_BeginsWithTheCommandOfTheReadme: who runs what the README says has run what CI runs first.
func TestRun_BeginsWithTheCommandOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.ReadFile("../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	printed := regexp.MustCompile(`(?m)^\$ (go test .+?) +# the tests$`).FindSubmatch(readme)
	first := regexp.MustCompile(`(?m)^[a-z0-9]+\(\) \{ # .+\n\t(.+)$`).FindSubmatch(run)
	if printed == nil || first == nil || string(printed[1]) != string(first[1]) {
		t.Errorf("README.md has %q, .ci/run begins with %q", printed, first)
	}
}

func TestUnmatched(t *testing.T) {
	tests := func(folder string) []string {
		return map[string][]string{"a": {"TestOne_Two", "BenchmarkThree"}, "b/c": {"TestFour"}}[folder]
	}
	for text, want := range map[string]int{
		"go test ./a -run '^TestOne'":                  0,
		"go test ./a ./b/c -run 'One|^TestFour$'":      0,
		"go test ./a -run '^TestOne_Two$/^sub$'":       0,
		"go test ./a -run '^$' -bench Three":           0,
		`go test -run "Four" ./b/c`:                    0,
		"go test ./a -run Four":                        1,
		"go test ./a -run 'One|Four'":                  1,
		"go test ./a -run Three":                       1,
		"go test ./a -run xxx -bench 'Two|Three'":      1,
		"go test ./gone -run One":                      1,
		"go test ./a -run One && go test ./a -run Six": 1,
	} {
		if _, missing := unmatched(text, tests); len(missing) != want {
			t.Errorf("%s: %v, want %d", text, missing, want)
		}
	}
}
