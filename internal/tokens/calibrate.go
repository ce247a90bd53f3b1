package tokens

import (
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

const (
	minRatio, maxRatio = 0.25, 6 // no tokenizer lies beyond; only broken usage does
	minMedia, maxMedia = 0.1, 10
	minRaw             = 20 // estimated tokens below which framing decides and the ratio is noise

	// Priors weigh as much as that many tokens of answers would.
	modelPrior   = 300.0
	sessionPrior = 200.0
	mediaPrior   = 1000.0

	// What one answer leaves of those before it.
	modelDecay   = 0.999
	sessionDecay = 0.9
	mediaDecay   = 0.95
	meanDecay    = 0.95

	firstOutput  = 512 // completion expected before anything was learned
	firstAnswers = 5   // answers that it takes
	maxEfforts   = 16  // spellings of a reasoning effort that are told apart
	maxTokens    = 1e8 // no context is longer; a usage beyond is broken
)

// weight is the estimated text of a request, in tokens: ASCII, and the rest, on
// which vocabularies differ most.
type weight struct{ plain, wide float64 }

func (w weight) sum() float64 { return w.plain + w.wide }

// times applies one ratio to each part.
func (w weight) times(r weight) float64 { return w.plain*r.plain + w.wide*r.wide }

// bound makes of a usage the nearest one that a tokenizer could produce.
func (w weight) bound(y float64) float64 { return clamp(y, minRatio*w.sum(), maxRatio*w.sum()) }

// fit is a least-squares fit of y to a weight's two parts, as decayed sums of
// products. An answer's squared error weighs the inverse of its size, so that all
// sums are in tokens.
type fit struct {
	PP, PW, WW float64 // plain by plain, plain by wide, wide by wide
	PY, WY     float64 // plain by usage, wide by usage
}

func (f *fit) observe(x weight, y float64) {
	y = x.bound(y) / x.sum()
	f.PP = f.PP*modelDecay + x.plain*x.plain/x.sum()
	f.PW = f.PW*modelDecay + x.plain*x.wide/x.sum()
	f.WW = f.WW*modelDecay + x.wide*x.wide/x.sum()
	f.PY = f.PY*modelDecay + x.plain*y
	f.WY = f.WY*modelDecay + x.wide*y
}

// ratios solves the fit, each part drawn toward prior.
func (f *fit) ratios(prior float64) weight {
	pp, ww := f.PP+modelPrior, f.WW+modelPrior
	py, wy := f.PY+modelPrior*prior, f.WY+modelPrior*prior
	det := pp*ww - f.PW*f.PW // positive: PW² <= PP·WW
	return weight{
		plain: clamp((py*ww-wy*f.PW)/det, minRatio, maxRatio),
		wide:  clamp((wy*pp-py*f.PW)/det, minRatio, maxRatio),
	}
}

// conversation is what a session adds: how its text differs from the model's. It
// keeps estimates as they were before calibration, so that it stays right while
// the model's ratios move.
type conversation struct {
	x weight
	y float64
}

func (c *conversation) observe(x weight, y float64) {
	c.x.plain = c.x.plain*sessionDecay + x.plain
	c.x.wide = c.x.wide*sessionDecay + x.wide
	c.y = c.y*sessionDecay + x.bound(y)
}

// ratio is the session's own factor beside the model's ratios.
func (c *conversation) ratio(model weight) float64 {
	return (c.y + sessionPrior) / (c.x.times(model) + sessionPrior)
}

func clamp(v, low, high float64) float64 { return min(max(v, low), high) }

// model is what was learned about one model.
type model struct {
	family  float64 // prior ratio
	text    fit
	media   media
	hidden  mean            // context that cannot be seen, where there is any
	outputs map[string]mean // completion of one choice, by reasoning effort
}

// newModel knows nothing but the name.
func newModel(name llm.Model) model {
	return model{family: familyOf(name), outputs: map[string]mean{}}
}

// media is what images and the like were charged, beside their documented price.
type media struct{ x, y float64 }

func (m *media) observe(x, y float64) {
	m.x = m.x*mediaDecay + x
	m.y = m.y*mediaDecay + clamp(y, minMedia*x, maxMedia*x)
}

func (m *media) ratio() float64 { return (m.y + mediaPrior) / (m.x + mediaPrior) }

// output is the completion to expect of one choice.
func (m *model) output(effort string) float64 {
	if o := m.outputs[effort]; o.n >= firstAnswers {
		return o.value
	}
	return firstOutput
}

func (m *model) observeOutput(effort string, tokens float64) {
	o, known := m.outputs[effort]
	if !known && len(m.outputs) >= maxEfforts {
		return
	}
	o.observe(tokens)
	m.outputs[strings.Clone(effort)] = o
}

// mean is an average that forgets once it rests on enough: 1/(1-meanDecay) values.
type mean struct{ value, n float64 }

func (m *mean) observe(v float64) {
	m.n++
	m.value += (v - m.value) * max(1/m.n, 1-meanDecay)
}

// families guesses a tokenizer from a part of a model's name: its tokens per token
// of o200k_base on English and code, from the counts beside the corpus.
var families = []struct {
	name  string
	ratio float64
}{
	{"claude", 1.2},
	{"mistral", 1.2},
	{"mixtral", 1.3},
	{"gemini", 1.15},
	{"gemma", 1.15},
	{"qwen", 1.1},
	{"deepseek", 1.05},
	{"llama", 1.0},
	{"gpt", 1.0},
	{"text-embedding", 1.0},
	{"o1", 1.0},
	{"o3", 1.0},
	{"o4", 1.0},
}

// strangers is the prior ratio for a name that says nothing. A little too much
// waits a little too long; a little too little makes the upstream refuse.
const strangers = 1.1

// familyOf returns the prior ratio for a model's name in any spelling.
func familyOf(model llm.Model) float64 {
	name := strings.ToLower(string(model))
	for _, f := range families {
		if strings.Contains(name, f.name) {
			return f.ratio
		}
	}
	return strangers
}
