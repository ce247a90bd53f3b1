package ledger

import "unicode/utf8"

// CleanName makes a name that a client or a provider chose fit for a record
// and the log: valid UTF-8, printable, at most 128 bytes.
func CleanName[T ~string](name T) T {
	kept := make([]byte, 0, min(len(name), 128))
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r == 0x2028 || r == 0x2029 {
			r = '?'
		}
		if len(kept)+utf8.RuneLen(r) > 128 {
			break
		}
		kept = utf8.AppendRune(kept, r)
	}
	return T(kept)
}
