package tokens

// base64 is encoded data that is read byte by byte where it stands: the size of a
// picture of megabytes is known from a few dozen bytes.
type base64 []byte

// len is the length of the decoded data, at most two bytes too long.
func (s base64) len() int { return len(s) / 4 * 3 }

// at decodes one byte, -1 when there is none.
func (s base64) at(i int) int {
	if i < 0 || i/3 > len(s)/4 { // also keeps i/3*4 from overflowing
		return -1
	}
	k := i/3*4 + i%3
	if k+1 >= len(s) {
		return -1
	}
	hi, lo := sextet(s[k]), sextet(s[k+1])
	if hi < 0 || lo < 0 {
		return -1
	}
	shift := 2 * (i%3 + 1)
	return (hi<<shift | lo>>(6-shift)) & 0xff
}

// sextet is the value of one base64 character of either alphabet, -1 for others:
// padding, or an escaped slash, behind which nothing can be found any more.
func sextet(c byte) int {
	switch {
	case 'A' <= c && c <= 'Z':
		return int(c - 'A')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 26
	case '0' <= c && c <= '9':
		return int(c-'0') + 52
	case c == '+', c == '-':
		return 62
	case c == '/', c == '_':
		return 63
	}
	return -1
}

// is reports whether the bytes from i on spell want.
func (s base64) is(i int, want string) bool {
	for j := range len(want) {
		if s.at(i+j) != int(want[j]) {
			return false
		}
	}
	return true
}

// uint reads n bytes as a number, -1 when they are not there.
func (s base64) uint(i, n int, bigEndian bool) int {
	v := 0
	for j := range n {
		k := i + j
		if !bigEndian {
			k = i + n - 1 - j
		}
		b := s.at(k)
		if b < 0 {
			return -1
		}
		v = v<<8 | b
	}
	return v
}

// imageSize reads width and height in pixels from the header of a PNG, GIF, WebP
// or JPEG; zeros when it cannot.
func imageSize(s base64) (width, height int) {
	switch {
	case s.is(0, "\x89PNG\r\n\x1a\n"):
		width, height = s.uint(16, 4, true), s.uint(20, 4, true)
	case s.is(0, "GIF8"):
		width, height = s.uint(6, 2, false), s.uint(8, 2, false)
	case s.is(0, "RIFF") && s.is(8, "WEBP"):
		width, height = webpSize(s)
	case s.is(0, "\xff\xd8"):
		width, height = jpegSize(s)
	}
	const most = 1 << 16 // beyond any format's real pictures; keeps the arithmetic tame
	if width <= 0 || height <= 0 || width > most || height > most {
		return 0, 0
	}
	return width, height
}

// webpSize knows the three kinds of WebP: lossy, lossless and extended.
// Source: RFC 9649, sections 2.5 to 2.7.
func webpSize(s base64) (width, height int) {
	switch {
	case s.is(12, "VP8 "):
		return s.uint(26, 2, false) & 0x3fff, s.uint(28, 2, false) & 0x3fff
	case s.is(12, "VP8L"):
		v := s.uint(21, 4, false)
		if v < 0 {
			return 0, 0
		}
		return v&0x3fff + 1, v>>14&0x3fff + 1
	case s.is(12, "VP8X"):
		return s.uint(24, 3, false) + 1, s.uint(27, 3, false) + 1
	}
	return 0, 0
}

// jpegSize hops from segment to segment to the frame header. Source: ITU-T T.81,
// annex B. The number of hops is bounded: a picture has a few dozen segments.
func jpegSize(s base64) (width, height int) {
	i := 2
	for range 512 {
		if s.at(i) != 0xff {
			return 0, 0
		}
		switch marker := s.at(i + 1); {
		case marker == 0xff: // fill byte
			i++
			continue
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc:
			return s.uint(i+7, 2, true), s.uint(i+5, 2, true)
		}
		n := s.uint(i+2, 2, true)
		if n < 2 {
			return 0, 0
		}
		i += 2 + n
	}
	return 0, 0
}
