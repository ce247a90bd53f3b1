package provider

import (
	"encoding/binary"
	"io"
	"net"
)

// HTTP/2 framing, RFC 9113 section 4.1 and 6: what refusing a stream takes.
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameData     = 0x0
	frameHeaders  = 0x1
	frameReset    = 0x3
	frameSettings = 0x4
	framePing     = 0x6
	frameGoAway   = 0x7

	flagAck       = 0x1
	flagEndStream = 0x1

	refusedStream = 0x7 // error code
)

// frame renders one HTTP/2 frame.
func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// refuseAfter is how much of a request's body is read before it is refused: all of
// a small one, less than the window (65,535 bytes) of a large one.
const refuseAfter = 32 << 10

// refuseHTTP2 plays a server that takes a connection with prior knowledge and
// refuses its first request, written already, as not processed: with GOAWAY naming stream 0 as the last one
// seen, or with RST_STREAM(REFUSED_STREAM). Later requests of the connection find it gone.
func refuseHTTP2(conn net.Conn, deed Deed) {
	start := make([]byte, len(preface))
	if _, err := io.ReadFull(conn, start); err != nil || string(start) != preface {
		return
	}
	if _, err := conn.Write(frame(frameSettings, 0, 0)); err != nil {
		return
	}
	refused, received := false, int64(0)
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		stream := binary.BigEndian.Uint32(head[5:]) &^ (1 << 31)
		payload := make([]byte, length)
		if _, err := io.ReadFull(conn, payload); err != nil {
			return
		}
		var answer []byte
		switch {
		case head[3] == frameSettings && head[4]&flagAck == 0:
			answer = frame(frameSettings, flagAck, 0)
		case head[3] == framePing && head[4]&flagAck == 0:
			answer = frame(framePing, flagAck, 0, payload...)
		case head[3] != frameHeaders && head[3] != frameData || refused:
		case head[4]&flagEndStream == 0 && received+length < refuseAfter:
			received += length
		default:
			refused = true
			last := uint32(0)
			if deed == RefuseStream {
				answer = frame(frameReset, 0, stream, binary.BigEndian.AppendUint32(nil, refusedStream)...)
				last = stream
			}
			// The rest of the connection is closed too, so that the next attempt dials anew.
			goAway := binary.BigEndian.AppendUint32(nil, last)
			answer = append(answer, frame(frameGoAway, 0, 0, append(goAway, 0, 0, 0, 0)...)...)
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}
