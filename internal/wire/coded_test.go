package wire

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/memory"
)

type flusher interface {
	io.WriteCloser
	Flush() error
}

// encoders are what servers do, by the coding's name and variant.
var encoders = map[string]func(w io.Writer) flusher{
	"gzip":        func(w io.Writer) flusher { return gzip.NewWriter(w) },
	"x-gzip":      func(w io.Writer) flusher { return gzip.NewWriter(w) },
	"deflate":     func(w io.Writer) flusher { return zlib.NewWriter(w) },
	"deflate raw": func(w io.Writer) flusher { f, _ := flate.NewWriter(w, 9); return f },
	"br":          func(w io.Writer) flusher { return brotli.NewWriterLevel(w, 4) },
	"zstd": func(w io.Writer) flusher {
		z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		return z
	},
}

// pack is what a server sends that does not flush.
func pack(t testing.TB, variant, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := encoders[variant](&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// encode returns the pieces that a server sends which flushes behind each of text's, and the end as the last.
func encode(t testing.TB, variant string, text ...string) (pieces [][]byte) {
	t.Helper()
	var b bytes.Buffer
	cut := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, bytes.Clone(b.Bytes()))
		b.Reset()
	}
	w := encoders[variant](&b)
	for _, one := range text {
		if _, err := io.WriteString(w, one); err != nil {
			t.Fatal(err)
		}
		cut(w.Flush())
	}
	cut(w.Close())
	return pieces
}

func coding(variant string) string { name, _, _ := strings.Cut(variant, " "); return name }

var codedFull = llm.Usage{Input: 7, Output: 3, Cached: 2, Reasoning: 1}

// Events leave when they come. What brings the end stays, and all bytes are the same.
func TestCoded_StreamIsLive(t *testing.T) {
	for variant := range encoders {
		t.Run(variant, func(t *testing.T) {
			text := []string{delta, ": ping\n\n", delta, delta, final, done}
			pieces := encode(t, variant, text...)
			w := Watch(Chat, WatchOptions{Stream: true, StripUsage: true, Coding: coding(variant)})
			var got []byte
			for i, p := range pieces {
				forward := w.Push(p)
				if live := i < 4; live != (len(forward) == len(p)) || !live && len(forward) > 0 {
					t.Errorf("piece %d: %d of %d bytes left at once", i, len(forward), len(p))
				}
				got = append(got, forward...)
			}
			if !w.Complete() || !w.Terminal() {
				t.Error("its end was not seen")
			}
			if u, ok := w.Usage(); !ok || u != codedFull {
				t.Errorf("usage %+v %v", u, ok)
			}
			got = append(got, w.Close()...)
			if !bytes.Equal(got, bytes.Join(pieces, nil)) {
				t.Error("the bytes changed")
			}
			if w.Model() != "gpt-4o-mini" {
				t.Errorf("model %q", w.Model())
			}
		})
	}
}

func TestCoded_HowEverItIsCut(t *testing.T) {
	answer := `{"id":"c1","model":"m","choices":[{"message":{"content":"` + strings.Repeat("hello ", 5000) + `"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}`
	for variant := range encoders {
		for _, stream := range []bool{false, true} {
			text := []string{answer[:1000], answer[1000:]}
			if stream {
				text = []string{delta, delta, final + done}
			}
			all := bytes.Join(encode(t, variant, text...), nil)
			for _, step := range []int{1, 3, 100, len(all), 0} {
				if step == 0 {
					all = pack(t, variant, strings.Join(text, ""))
					step = len(all)
				}
				t.Run(fmt.Sprint(variant, stream, step), func(t *testing.T) {
					account := memory.NewAccount(64 << 20)
					hold := account.Hold(memory.Answers)
					w := Watch(Chat, WatchOptions{Stream: stream, Coding: coding(variant), Memory: &hold})
					var got []byte
					for at := 0; at < len(all); at += step {
						forward := w.Push(all[at:min(at+step, len(all))])
						if !stream && len(forward) > 0 {
							t.Error("part of a JSON answer left before its end")
						}
						got = append(got, forward...)
					}
					if !w.Complete() {
						t.Error("not complete")
					}
					got = append(got, w.Close()...)
					if u, ok := w.Usage(); !ok || u != codedFull {
						t.Errorf("usage %+v %v", u, ok)
					}
					if !bytes.Equal(got, all) {
						t.Error("the bytes changed")
					}
					if held := account.Held().All; held > 0 {
						t.Errorf("%d bytes are still held", held)
					}
				})
			}
		}
	}
}

// What cannot be read passes, as it comes, and says nothing.
func TestCoded_Illegible(t *testing.T) {
	plain := encode(t, "gzip", `{"usage":{"prompt_tokens":7,"completion_tokens":3}}`)
	whole := bytes.Join(plain, nil)
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 0x5A
	bomb := bytes.Join(encode(t, "gzip", `{"usage":{"prompt_tokens":7,"completion_tokens":3},"x":"`+strings.Repeat("a", 1<<20)+`"}`), nil)
	for name, c := range map[string]struct {
		coding string
		bytes  []byte
		most   int64
		room   int64
	}{
		"a coding that nobody knows": {"compress", whole, maxDecoded, 1 << 30},
		"two codings":                {"gzip, br", whole, maxDecoded, 1 << 30},
		"another coding than it is":  {"zstd", whole, maxDecoded, 1 << 30},
		"not coded at all":           {"gzip", []byte(`{"usage":{"prompt_tokens":7,"completion_tokens":3}}`), maxDecoded, 1 << 30},
		"damaged":                    {"gzip", damaged, maxDecoded, 1 << 30},
		"a bomb":                     {"gzip", bomb, 1 << 19, 1 << 30},
		"memory is short":            {"gzip", whole, maxDecoded, 1 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			hold := memory.NewAccount(c.room).Hold(memory.Answers)
			w := Watch(Chat, WatchOptions{Coding: c.coding, Memory: &hold})
			if w.coded != nil {
				w.coded.most = c.most
			}
			var got []byte
			for at := 0; at < len(c.bytes); at += 10 {
				got = append(got, w.Push(c.bytes[at:min(at+10, len(c.bytes))])...)
			}
			got = append(got, w.Close()...)
			if u, ok := w.Usage(); ok {
				t.Errorf("usage %+v", u)
			}
			if !bytes.Equal(got, c.bytes) {
				t.Error("the bytes changed")
			}
		})
	}
}

// A file of several members is one answer.
func TestCoded_SeveralMembers(t *testing.T) {
	all := append(pack(t, "gzip", delta+final), pack(t, "gzip", done)...)
	all = append(all, "something else"...)
	w := Watch(Chat, WatchOptions{Stream: true, Coding: "gzip"})
	got := append(bytes.Clone(w.Push(all)), w.Close()...)
	if u, ok := w.Usage(); !ok || u != codedFull || !w.Complete() || !bytes.Equal(got, all) {
		t.Errorf("usage %+v %v, complete %v, the same bytes %v", u, ok, w.Complete(), bytes.Equal(got, all))
	}
}

// A large answer flows but for its last bytes, and its usage is known.
func TestCoded_Flows(t *testing.T) {
	random := make([]byte, 0, 9<<20)
	for n := uint64(1); len(random) < cap(random); n = n*6364136223846793005 + 1442695040888963407 {
		random = append(random, "abcdefghijklmnopqrstuvwxyz012345"[n>>59])
	}
	all := bytes.Join(encode(t, "gzip", `{"usage":{"prompt_tokens":7,"completion_tokens":3},"data":"`+string(random)+string(random)+`"}`), nil)
	if len(all) < holdJSON+1<<20 {
		t.Fatalf("%d bytes are too few", len(all))
	}
	w := Watch(Embeddings, WatchOptions{Coding: "gzip"})
	var got []byte
	most := 0
	for at := 0; at < len(all); at += 32 << 10 {
		got = append(got, w.Push(all[at:min(at+32<<10, len(all))])...)
		most = max(most, cap(w.coded.held))
	}
	if left := len(all) - len(got); left == 0 || left > holdFlowing {
		t.Errorf("%d bytes are held", left)
	}
	got = append(got, w.Close()...)
	if u, ok := w.Usage(); !ok || u.Input != 7 || !bytes.Equal(got, all) || most > 2*holdJSON {
		t.Errorf("usage %+v %v, %d bytes held, the same bytes: %v", u, ok, most, bytes.Equal(got, all))
	}
}

// An answer that nobody reads to its end leaves nothing behind: TestMain looks for goroutines.
func TestCoded_IsReleased(t *testing.T) {
	account := memory.NewAccount(64 << 20)
	hold := account.Hold(memory.Answers)
	for variant := range encoders {
		w := Watch(Chat, WatchOptions{Stream: true, Coding: coding(variant), Memory: &hold})
		w.Push(encode(t, variant, delta)[0])
		w.Release()
		w.Release()
		hold.Release()
	}
	if held := account.Held().All; held > 0 {
		t.Errorf("%d bytes are still held", held)
	}
}

// FuzzCoded: whatever comes passes unchanged, and a decoder that stumbles takes nothing along.
func FuzzCoded(f *testing.F) {
	for variant := range encoders {
		f.Add(bytes.Join(encode(f, variant, delta, final+done), nil), coding(variant), uint8(10), true)
		f.Add(bytes.Join(encode(f, variant, `{"usage":{"prompt_tokens":7}}`), nil), coding(variant), uint8(200), false)
	}
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff}, "zstd", uint8(0), false)
	f.Fuzz(func(t *testing.T, text []byte, coding string, size uint8, stream bool) {
		hold := memory.NewAccount(64 << 20).Hold(memory.Answers)
		w := Watch(Chat, WatchOptions{Stream: stream, Coding: coding, Memory: &hold})
		defer w.Release()
		if w.coded != nil {
			w.coded.most = 1 << 20
		}
		var got []byte
		for at := 0; at < len(text); at += int(size) + 1 {
			got = append(got, w.Push(text[at:min(at+int(size)+1, len(text))])...)
		}
		got = append(got, w.Close()...)
		if codingOf(coding) != "" && !bytes.Equal(got, text) {
			t.Fatal("the bytes changed")
		}
	})
}
