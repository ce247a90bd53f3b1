package budget

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxScope is how long a scope may be that the ledger keeps, in bytes.
const maxScope = 256

// separator stands between the parts of a scope: no header, session id or key name holds it.
const separator = "\x1f"

// Scope makes one name of what tells a budget from others. It is valid UTF-8 and at most 256 bytes
// long: what is longer ends in a digest of the whole.
func Scope(parts ...string) string {
	whole := strings.Join(parts, separator)
	clean := strings.ReplaceAll(strings.ToValidUTF8(whole, "?"), "\x00", "?")
	if clean == whole && len(whole) <= maxScope {
		return whole
	}
	digest := sha256.Sum256([]byte(whole))
	mark := "#" + hex.EncodeToString(digest[:16])
	return strings.ToValidUTF8(clean[:min(len(clean), maxScope-len(mark))], "") + mark
}
