package queue

import "math/bits"

// lengths files the children of a flow by the length of their queue, in powers of
// two. It answers who has the longest queue without a scan of all: when the queue
// overflows is exactly when there are many.
type lengths struct {
	lists [32]*Flow
	used  uint32 // bit i: lists[i] is not empty
}

// A filing is where a flow stands in its parent's lengths.
type filing struct {
	list       int8 // 0 = nowhere
	next, prev *Flow
}

// file puts f into the list of its present length.
func (l *lengths) file(f *Flow) {
	list := int8(bits.Len32(uint32(f.Waiting())))
	if list == f.filing.list {
		return
	}
	l.remove(f)
	if list == 0 {
		return
	}
	f.filing = filing{list: list, next: l.lists[list]}
	if f.filing.next != nil {
		f.filing.next.filing.prev = f
	}
	l.lists[list] = f
	l.used |= 1 << list
}

func (l *lengths) remove(f *Flow) {
	p := f.filing
	if p.list == 0 {
		return
	}
	if p.prev != nil {
		p.prev.filing.next = p.next
	} else if l.lists[p.list] = p.next; p.next == nil {
		l.used &^= 1 << p.list
	}
	if p.next != nil {
		p.next.filing.prev = p.prev
	}
	f.filing = filing{}
}

// longest returns the child with the longest queue among the first of the last
// list: never one shorter than half of the longest.
func (l *lengths) longest() *Flow {
	if l == nil || l.used == 0 {
		return nil
	}
	best := l.lists[bits.Len32(l.used)-1]
	for f, n := best.filing.next, 0; f != nil && n < 64; f, n = f.filing.next, n+1 {
		if f.Waiting() > best.Waiting() {
			best = f
		}
	}
	return best
}
