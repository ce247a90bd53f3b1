package ledger

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Cursors are sealed: they say nothing to whom they are given, and are good for the question that they
// were made for. One that was altered or made up, or that belongs to another client, is ErrInvalid.

// cursorState is the name under which stores keep the key, so that all processes on one store turn each other's pages.
const cursorState = "ledger.cursors"

type cursorSeal struct{ aead cipher.AEAD }

const cursorKeyBytes = 32

func newCursorKey() []byte {
	key := make([]byte, cursorKeyBytes)
	_, _ = rand.Read(key) // never fails
	return key
}

func cursorSealOf(key []byte) (cursorSeal, error) {
	if len(key) != cursorKeyBytes {
		return cursorSeal{}, fmt.Errorf("%w: state %q is no key", ErrInvalid, cursorState)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return cursorSeal{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return cursorSeal{aead}, err
}

// openCursors takes the store's key, or brings one. A store that cannot be written yet gets none: then
// cursors are good in this process only.
func openCursors(ctx context.Context, b backend) (cursorSeal, error) {
	key, err := b.keepState(ctx, cursorState, newCursorKey())
	if errors.Is(err, ErrUnavailable) {
		key, err = newCursorKey(), nil
	}
	if err != nil {
		return cursorSeal{}, err
	}
	return cursorSealOf(key)
}

// seal makes a cursor of a position in the answer to a question.
func (s cursorSeal) seal(question, position string) string {
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, []byte(position), []byte(question)))
}

// open returns the position of a cursor, "" of none.
func (s cursorSeal) open(question, cursor string) (position string, err error) {
	if cursor == "" {
		return "", nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		var plain []byte
		if plain, err = s.aead.Open(nil, nil, sealed, []byte(question)); err == nil && len(plain) > 0 {
			return string(plain), nil
		}
	}
	return "", fmt.Errorf("cursor: %w", ErrInvalid)
}

// question names what a cursor is good for: a kind of page, of a client's sessions or of all, of an id or of all.
func (w whose) question(kind, id string) string {
	return strings.Join([]string{kind, strconv.FormatBool(w.one), w.owner, id}, "\x00")
}

// sessionCursor is the place after a session in the order (LastAt, seq) descending.
type sessionCursor struct{ lastMs, seq int64 }

func (c sessionCursor) String() string { return fmt.Sprintf("%d.%d", c.lastMs, c.seq) }

// parseSessionCursor reads a position; "" is the first page, nil.
func parseSessionCursor(text string) (*sessionCursor, error) {
	if text == "" {
		return nil, nil
	}
	last, seq, _ := strings.Cut(text, ".")
	lastMs, err1 := strconv.ParseInt(last, 10, 64)
	n, err2 := strconv.ParseInt(seq, 10, 64)
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("session cursor: %w", ErrInvalid)
	}
	return &sessionCursor{lastMs, n}, nil
}

// parseRecordCursor reads the id of a page's last record; "" is the first page, nil.
func parseRecordCursor(text string) (*ID, error) {
	if text == "" {
		return nil, nil
	}
	id, err := parseID(text)
	if err != nil {
		return nil, fmt.Errorf("request cursor: %w", ErrInvalid)
	}
	return &id, nil
}
