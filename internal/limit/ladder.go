package limit

import "math/bits"

// A ladder files the children of a flow by the length of their queue, in powers
// of two. It answers who has the longest queue without a scan of all: when the
// queue overflows is exactly when there are many.
type ladder struct {
	heads [32]*flow
	used  uint32 // bit i: heads[i] is not empty
}

// file puts f on the rung of its present length.
func (l *ladder) file(f *flow) {
	rung := int8(bits.Len32(uint32(f.queued)))
	if rung == f.rung {
		return
	}
	l.remove(f)
	if rung == 0 {
		return
	}
	f.rung = rung
	f.rungNext = l.heads[rung]
	if f.rungNext != nil {
		f.rungNext.rungPrev = f
	}
	l.heads[rung] = f
	l.used |= 1 << rung
}

func (l *ladder) remove(f *flow) {
	if f.rung == 0 {
		return
	}
	if f.rungPrev != nil {
		f.rungPrev.rungNext = f.rungNext
	} else if l.heads[f.rung] = f.rungNext; f.rungNext == nil {
		l.used &^= 1 << f.rung
	}
	if f.rungNext != nil {
		f.rungNext.rungPrev = f.rungPrev
	}
	f.rungPrev, f.rungNext, f.rung = nil, nil, 0
}

// longest returns the child with the longest queue per weight among the first
// of the highest rung: never one shorter than half of the longest.
func (l *ladder) longest() *flow {
	if l == nil || l.used == 0 {
		return nil
	}
	best := l.heads[bits.Len32(l.used)-1]
	for f, n := best.rungNext, 0; f != nil && n < 64; f, n = f.rungNext, n+1 {
		if f.queued > best.queued {
			best = f
		}
	}
	return best
}
