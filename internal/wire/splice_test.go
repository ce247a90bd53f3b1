package wire

// Upstream returns the body to send, as the proxy puts it together: Raw itself, or a
// copy with the splice.
func (r *Request) Upstream() (body []byte, spliced bool) {
	from, to, text, spliced := r.Splice()
	if !spliced {
		return r.Raw, false
	}
	return append(append(append([]byte{}, r.Raw[:from]...), text...), r.Raw[to:]...), true
}
