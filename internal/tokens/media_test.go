package tokens

import (
	"bytes"
	stdbase64 "encoding/base64"
	"fmt"
	stdimage "image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

func encoded(b []byte) base64 { return base64(stdbase64.StdEncoding.EncodeToString(b)) }

func picture(t *testing.T, format string, w, h int) []byte {
	t.Helper()
	img := stdimage.NewPaletted(stdimage.Rect(0, 0, w, h), color.Palette{color.Black, color.White})
	var b bytes.Buffer
	var err error
	switch format {
	case "png":
		err = png.Encode(&b, img)
	case "gif":
		err = gif.Encode(&b, img, nil)
	case "jpeg", "jpeg with metadata":
		err = jpeg.Encode(&b, img, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if format == "jpeg with metadata" { // two segments of the greatest size behind the first marker
		exif := append([]byte{0xff, 0xe1, 0xff, 0xff}, make([]byte, 0xffff-2)...)
		return append(append([]byte{0xff, 0xd8}, append(exif, exif...)...), b.Bytes()[2:]...)
	}
	return b.Bytes()
}

func TestImageSize_ReadsHeaders(t *testing.T) {
	for _, format := range []string{"png", "gif", "jpeg", "jpeg with metadata"} {
		t.Run(format, func(t *testing.T) {
			for _, want := range [][2]int{{1, 1}, {37, 512}, {1300, 77}} {
				if w, h := imageSize(encoded(picture(t, format, want[0], want[1]))); w != want[0] || h != want[1] {
					t.Errorf("read %d x %d, want %d x %d", w, h, want[0], want[1])
				}
			}
		})
	}
	for name, header := range map[string]string{ // all of 300 x 200
		"webp lossy":    "RIFF\x00\x00\x00\x00WEBPVP8 \x00\x00\x00\x00\x00\x00\x00\x9d\x01\x2a\x2c\x01\xc8\x00",
		"webp lossless": "RIFF\x00\x00\x00\x00WEBPVP8L\x00\x00\x00\x00\x2f\x2b\xc1\x31\x00",
		"webp extended": "RIFF\x00\x00\x00\x00WEBPVP8X\x00\x00\x00\x00\x00\x00\x00\x00\x2b\x01\x00\xc7\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			if w, h := imageSize(encoded([]byte(header))); w != 300 || h != 200 {
				t.Errorf("read %d x %d, want 300 x 200", w, h)
			}
		})
	}
	t.Run("anything cut short has no size", func(t *testing.T) {
		for _, format := range []string{"png", "gif", "jpeg"} {
			full := encoded(picture(t, format, 40, 30))
			for n := range min(len(full), 400) {
				if w, h := imageSize(full[:n]); (w != 0 || h != 0) && (w != 40 || h != 30) {
					t.Fatalf("%s cut to %d characters: %d x %d", format, n, w, h)
				}
			}
		}
	})
}

func TestBase64_ReadsWhatTheStandardLibraryWrote(t *testing.T) {
	want := make([]byte, 300)
	for i := range want {
		want[i] = byte(i * 7)
	}
	for _, enc := range []*stdbase64.Encoding{stdbase64.StdEncoding, stdbase64.URLEncoding} {
		s := base64(enc.EncodeToString(want))
		for i, b := range want {
			if got := s.at(i); got != int(b) {
				t.Fatalf("byte %d is %d, want %d", i, got, b)
			}
		}
		for _, i := range []int{-1, 300, 301, 1 << 62} {
			if got := s.at(i); got != -1 {
				t.Errorf("byte %d of 300 is %d", i, got)
			}
		}
	}
}

// The examples of OpenAI's guide, and its calculator's figure for unknown sizes.
func TestPricing_DocumentedExamples(t *testing.T) {
	tests := []struct {
		model llm.Model
		image image
		want  int64
	}{
		{"gpt-4o", image{width: 1024, height: 1024}, 765},
		{"gpt-4o", image{width: 2048, height: 4096}, 1105},
		{"gpt-4o", image{width: 4096, height: 8192, low: true}, 85},
		{"gpt-4o", image{}, 765},
		{"gpt-4o", image{width: 20, height: 20}, 255},
		{"openai/gpt-4o-mini", image{width: 1024, height: 1024}, 2833 + 4*5667},
		{"gpt-4.1-mini", image{width: 1024, height: 1024}, 1659}, // 1024 patches
		{"gpt-4.1-mini", image{width: 1800, height: 2400}, 2353}, // 1452 patches
		{"gpt-5-nano", image{}, 3778},
		{"o4-mini-2025", image{width: 32, height: 32}, 2},
		{"claude-sonnet-4", image{width: 1092, height: 1092}, 1590},
		{"claude-sonnet-4", image{width: 200, height: 200}, 54},
		{"some-vision-model", image{width: 512, height: 512}, 255},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %dx%d", tt.model, tt.image.width, tt.image.height), func(t *testing.T) {
			if got := priceOf(tt.model).cost(tt.image); abs(got-tt.want) > 1 {
				t.Errorf("costs %d, want %d", got, tt.want)
			}
		})
	}
}

func TestRequest_ImagesByTheirHeader(t *testing.T) {
	url := "data:image/png;base64," + string(encoded(picture(t, "png", 400, 300)))
	for name, part := range map[string]string{
		"chat":                 `{"type":"image_url","image_url":{"url":"` + url + `"}}`,
		"detail before url":    `{"image_url":{"detail":"high","url":"` + url + `"},"type":"image_url"}`,
		"responses":            `{"type":"input_image","image_url":"` + url + `"}`,
		"small detail ignored": `{"type":"input_image","detail":"auto","image_url":"` + url + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got := estimate(Request{Messages: []byte(`[{"role":"user","content":[` + part + `]}]`)}); got.Media != 255 {
				t.Errorf("media %d, want one tile: 255", got.Media)
			}
		})
	}
	low := strings.ReplaceAll(`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"U","detail":"low"}}]}]`, "U", url)
	if got := estimate(Request{Messages: []byte(low)}); got.Media != 85 {
		t.Errorf("low detail: media %d, want 85", got.Media)
	}
}

func TestAudioTokens_ReadsTheRateOfAWAV(t *testing.T) {
	header := []byte("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00") // 16 kHz, 32,000 bytes a second
	wav := encoded(append(header, make([]byte, 10*32000)...))
	got := audioTokens(&cursor{b: []byte(`{"data":"` + string(wav) + `","format":"wav"}`)})
	if got < 10*audioRate-2 || got > 10*audioRate+2 {
		t.Errorf("ten seconds cost %d, want about %d", got, 10*audioRate)
	}
}
