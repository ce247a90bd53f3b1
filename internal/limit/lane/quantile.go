package lane

import "math"

// A quantile follows the 95th percentile of a stream by stochastic
// approximation, in the logarithm: up by much when exceeded, down by little
// when not, so that it rests where one in twenty exceeds it.
type quantile struct {
	value float64
	n     int
}

func (q *quantile) observe(x float64) {
	if !(x > 0) {
		return
	}
	if q.n++; q.n == 1 {
		q.value = x
		return
	}
	step := max(0.05, 1/float64(q.n))
	if x > q.value {
		q.value *= math.Exp(step * 0.95)
	} else {
		q.value *= math.Exp(-step * 0.05)
	}
}
