package tokens

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// hostile are bodies that would make a careless walk quadratic or deep: a
// beginning, and what is repeated behind it.
var hostile = map[string][2]string{
	"one letter":     {`"`, "a"},
	"backslashes":    {`"`, `\`},
	"escaped quotes": {`"`, `\"`},
	"surrogates":     {`"`, `\ud83d`},
	"bad utf-8":      {`"`, "\xe4"},
	"newlines":       {`"`, "\n"},
	"quotes":         {`"`, `"`},
	"commas":         {`[`, `,`},
	"open arrays":    {`[`, `[`},
	"open objects":   {`[`, `{"content":[`},
	"open images":    {`[{"content":[`, `{"image_url":{"url":`},
	"tool wrappers":  {`[`, `{"function":`},
}

// hostileBody returns size bytes of one kind.
func hostileBody(kind string, size int) []byte {
	parts := hostile[kind]
	return []byte(parts[0] + strings.Repeat(parts[1], size/len(parts[1])+1))[:size]
}

// TestEstimate_IsLinear holds a megabyte to 16 times the work of 64 KB of the
// same, which is linear. It counts statements instead of taking the time,
// so that it says the same on every machine: the go command builds the package
// once more, with coverage counters, and each body is walked by a process of that.
// What the counters do not see, bytes.IndexByte in cursor.str, reads no byte twice:
// str goes on from where it stopped.
func TestEstimate_IsLinear(t *testing.T) {
	if kind := os.Getenv("HOSTILE_KIND"); kind != "" {
		size, err := strconv.Atoi(os.Getenv("HOSTILE_SIZE"))
		if err != nil {
			t.Fatal(err)
		}
		body := hostileBody(kind, size)
		New(Config{}).Estimate(Key{Model: "gpt-4o"}, Request{Messages: body, Tools: body, Prompt: body})
		return
	}
	if testing.Short() {
		t.Skip("builds the package once more")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	counting := filepath.Join(t.TempDir(), "counting")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-covermode=count", "-o", counting, ".").CombinedOutput(); err != nil {
		t.Fatalf("build with counters: %v\n%s", err, out)
	}
	for kind := range hostile {
		t.Run(kind, func(t *testing.T) {
			// The sizes rise in steps, because counters are 32 bits wide: what is quadratic
			// shows in the first step, and would wrap around in the last.
			setup := statements(t, counting, kind, 0)
			few := statements(t, counting, kind, 4<<10) - setup
			for _, size := range []int{64 << 10, 1 << 20} {
				many := statements(t, counting, kind, size) - setup
				t.Logf("%d KB in %d statements: %.2f times those of a sixteenth", size>>10, many, float64(many)/float64(few))
				if many != few && (many > 17*few || many < 15*few) {
					t.Fatalf("%d KB take %d statements, a sixteenth of it takes %d", size>>10, many, few)
				}
				few = many
			}
		})
	}
}

// statements counts those of this package that one Estimate of a body executes,
// and the setup before it.
func statements(t *testing.T, counting, kind string, size int) (n int64) {
	t.Helper()
	profile := filepath.Join(t.TempDir(), "profile")
	cmd := exec.CommandContext(t.Context(), counting, "-test.run=^TestEstimate_IsLinear$", "-test.coverprofile="+profile)
	cmd.Env = append(os.Environ(), "HOSTILE_KIND="+kind, "HOSTILE_SIZE="+strconv.Itoa(size))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.Open(profile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// text.go:12.34,15.6 3 42: a block of 3 statements, executed 42 times.
		_, block, found := strings.Cut(lines.Text(), " ")
		var length, times int64
		if _, err := fmt.Sscan(block, &length, &times); found && err == nil && !strings.HasPrefix(lines.Text(), "mode:") {
			n += length * times
		}
	}
	if err := lines.Err(); err != nil || n == 0 {
		t.Fatalf("read profile: %d statements, %v", n, err)
	}
	return n
}
