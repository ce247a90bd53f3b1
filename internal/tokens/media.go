package tokens

import "bytes"

// pricing is how a family of models charges images.
type pricing struct {
	base, tile int64   // tile models
	patch      float64 // patch models: factor, 0 for tile models
}

// image is one image part as far as it can be read without decoding it.
type image struct {
	found, low    bool
	width, height int
}

// read consumes an image_url member: a URL, or an object with url and detail.
func (m *image) read(c *cursor) {
	switch c.peek() {
	case '"':
		m.url(c.str())
	case '{':
		c.i++
		for c.more('}') {
			switch string(c.key()) {
			case "url":
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
	default:
		c.skip()
	}
}

func (m *image) url(u []byte) {
	m.found = true
	if bytes.HasPrefix(u, []byte("data:")) {
		m.width, m.height = 1024, 1024
	}
}

// cost is the documented price of an image.
func (p pricing) cost(m image) int64 {
	if m.low {
		return p.base
	}
	return p.base + 4*p.tile
}

// priceOf finds a model's image prices.
func priceOf(model string) pricing { return pricing{base: 85, tile: 170} }

func audioTokens(c *cursor) int64 { return int64(len(c.value()) / 1000) }

func fileTokens(c *cursor) int64 { return int64(len(c.value()) / 40) }
