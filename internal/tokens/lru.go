package tokens

// lru is a map that holds at most max entries and forgets the one that was used
// least recently. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	max     int
	entries map[K]*node[K, V]
	head    node[K, V] // of a ring: head.next is the newest, head.prev the oldest
}

type node[K comparable, V any] struct {
	prev, next *node[K, V]
	key        K
	value      V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	l := &lru[K, V]{max: limit, entries: make(map[K]*node[K, V])}
	l.head.prev, l.head.next = &l.head, &l.head
	return l
}

// get returns the value of k and makes it the newest, or nil.
func (l *lru[K, V]) get(k K) *V {
	n := l.entries[k]
	if n == nil {
		return nil
	}
	n.unlink()
	l.link(n)
	return &n.value
}

// put adds k as the newest and returns its value to be filled in.
func (l *lru[K, V]) put(k K) *V {
	if v := l.get(k); v != nil {
		return v
	}
	n := &node[K, V]{key: k}
	if len(l.entries) >= l.max {
		oldest := l.head.prev
		oldest.unlink()
		delete(l.entries, oldest.key)
	}
	l.entries[k] = n
	l.link(n)
	return &n.value
}

func (n *node[K, V]) unlink() { n.prev.next, n.next.prev = n.next, n.prev }

func (l *lru[K, V]) link(n *node[K, V]) {
	n.prev, n.next = &l.head, l.head.next
	n.prev.next, n.next.prev = n, n
}
