package tokens

import (
	"bytes"
	"math"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// pricing is how a family of models charges images: by tiles of 512 pixels, by
// patches of 32, or by area.
type pricing struct {
	base, tile int64   // tile models
	patch      float64 // patch models: tokens per patch
	area       float64 // area models: pixels per token
}

// prices by the beginning of a model's name, the longer names first. Tiles and
// patches: OpenAI's guide "Images and vision", section "Calculating costs"; area:
// Anthropic's guide "Vision". What is billed has been seen to differ, which the
// learned media ratio takes up.
var prices = []struct {
	model string
	pricing
}{
	{"gpt-4o-mini", pricing{base: 2833, tile: 5667}},
	{"gpt-4.1-mini", pricing{patch: 1.62}},
	{"gpt-4.1-nano", pricing{patch: 2.46}},
	{"gpt-5-mini", pricing{patch: 1.62}},
	{"gpt-5-nano", pricing{patch: 2.46}},
	{"o4-mini", pricing{patch: 1.72}},
	{"gpt-5", pricing{base: 70, tile: 140}},
	{"o1", pricing{base: 75, tile: 150}},
	{"o3", pricing{base: 75, tile: 150}},
	{"computer-use", pricing{base: 65, tile: 129}},
	{"claude", pricing{area: 750}},
	{"", pricing{base: 85, tile: 170}}, // gpt-4o, gpt-4.1, and the guess for strangers
}

// priceOf finds a model's image prices; a vendor before a slash is ignored.
func priceOf(model llm.Model) pricing {
	name := string(model[strings.LastIndexByte(string(model), '/')+1:])
	for _, p := range prices {
		if strings.HasPrefix(name, p.model) {
			return p.pricing
		}
	}
	return pricing{}
}

// cost is the documented price of an image in tokens. One whose size cannot be
// known from here, a remote URL for instance, costs what a large one would.
func (p pricing) cost(m image) int64 {
	w, h := float64(m.width), float64(m.height)
	unknown := m.width <= 0 || m.height <= 0
	switch {
	case p.patch > 0:
		if unknown {
			return int64(maxPatches * p.patch)
		}
		return int64(math.Ceil(patches(w, h) * p.patch))
	case p.area > 0:
		if unknown {
			w, h = 1092, 1092
		}
		shrink := min(1, 1568/max(w, h))
		return int64(math.Ceil(min(w*h*shrink*shrink, 1.2e6) / p.area))
	case m.low:
		return p.base
	case unknown:
		w, h = 1024, 1024
	}
	shrink := min(1, 2048/max(w, h))
	shrink *= min(1, 768/(min(w, h)*shrink))
	tiles := math.Ceil(w*shrink/512) * math.Ceil(h*shrink/512)
	return p.base + int64(tiles)*p.tile
}

const maxPatches = 1536

// patches counts the 32 pixel squares that cover an image, shrunk as far as needed
// to stay within maxPatches.
func patches(w, h float64) float64 {
	if n := math.Ceil(w/32) * math.Ceil(h/32); n <= maxPatches {
		return n
	}
	shrink := math.Sqrt(32 * 32 * maxPatches / (w * h))
	across, down := max(1, w*shrink/32), max(1, h*shrink/32)
	shrink *= min(math.Floor(across)/across, math.Floor(down)/down)
	return min(maxPatches, math.Ceil(w*shrink/32)*math.Ceil(h*shrink/32))
}

// image is one image part as far as it can be read without decoding it.
type image struct {
	found, low    bool
	width, height int // pixels, 0 when unknown
}

// read consumes an image: a URL, or an object that holds one (image_url, with
// detail) or the bare data (source, as Anthropic spells it).
func (m *image) read(c *cursor) {
	if c.peek() == '"' {
		m.url(c.str())
		return
	}
	if !c.enter('{') {
		c.skip()
		return
	}
	for c.more('}') {
		switch string(c.key()) {
		case "url", "data":
			if c.peek() == '"' {
				m.url(c.str())
			} else {
				c.skip()
			}
		case "detail":
			m.low = string(c.value()) == `"low"`
		default:
			c.skip()
		}
	}
}

func (m *image) url(u []byte) {
	m.found = true
	data, ok := dataURL(u)
	if !ok {
		data = base64(u) // a remote URL decodes to nothing that looks like a picture
	}
	m.width, m.height = imageSize(data)
}

// dataURL returns the payload of a base64 data: URL.
func dataURL(u []byte) (base64, bool) {
	if !bytes.HasPrefix(u, []byte("data:")) {
		return nil, false
	}
	// The media type is short; a comma far away is no data URL's.
	i := bytes.Index(u[:min(len(u), 256)], []byte(";base64,"))
	if i < 0 {
		return nil, false
	}
	return base64(u[i+len(";base64,"):]), true
}

const (
	audioRate  = 10    // tokens per second of speech; a guess that the media ratio corrects
	pcmRate    = 48000 // bytes per second where a header does not say: 24 kHz, 16 bit
	mp3Rate    = 16000 // 128 kbit/s
	fileBytes  = 40    // bytes of a document (PDF) to a token: some 50 KB and 1,250 tokens a page
	fileRemote = 2000  // a document that is not here to be seen
)

// audioTokens consumes {"data": base64, "format": ...} and guesses its length.
func audioTokens(c *cursor) int64 {
	if !c.enter('{') {
		c.skip()
		return 0
	}
	var data base64
	for c.more('}') {
		if string(c.key()) == "data" && c.peek() == '"' {
			data = base64(c.str())
		} else {
			c.skip()
		}
	}
	rate := int64(mp3Rate)
	if data.is(0, "RIFF") {
		rate = int64(data.uint(28, 4, false))
		if rate < 1000 || rate > 1<<20 {
			rate = pcmRate
		}
	}
	return int64(data.len()) * audioRate / rate
}

// fileTokens consumes a document: base64, a data: URL, or a remote URL.
func fileTokens(c *cursor) int64 {
	if c.peek() != '"' {
		c.skip()
		return 0
	}
	u := c.str()
	if data, ok := dataURL(u); ok {
		if bytes.HasPrefix(u, []byte("data:text/")) {
			return int64(data.len()) / 4
		}
		return int64(data.len()) / fileBytes
	}
	if bytes.HasPrefix(u, []byte("http")) {
		return fileRemote
	}
	return int64(base64(u).len()) / fileBytes
}
