package tokens

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Config bounds what an Estimator remembers. Zero fields take the defaults.
type Config struct {
	MaxSessions  int // calibrated conversations, 4096
	MaxModels    int // calibrated models, 512
	MaxResponses int // responses that a request may continue from, 8192
}

// Estimator weighs requests and learns from what they turned out to cost. All
// methods may be called concurrently; weighing, the long part, holds no lock.
type Estimator struct {
	mu        sync.Mutex
	models    *lru[llm.Model, model]
	sessions  *lru[Key, conversation]
	responses *lru[responseKey, int64] // id to the tokens of its whole context
}

// responseKey holds the client, so that nobody learns from somebody else's ids.
type responseKey struct{ client, id string }

// New returns an Estimator that has seen nothing yet.
func New(cfg Config) *Estimator {
	or := func(n, standard int) int {
		if n > 0 {
			return n
		}
		return standard
	}
	return &Estimator{
		models:    newLRU[llm.Model, model](or(cfg.MaxModels, 512)),
		sessions:  newLRU[Key, conversation](or(cfg.MaxSessions, 4096)),
		responses: newLRU[responseKey, int64](or(cfg.MaxResponses, 8192)),
	}
}

// Estimate says what a request is expected to cost. It reads every byte of r once
// and, for text, allocates nothing. It never fails: what is no JSON weighs little,
// and the upstream judges it.
func (e *Estimator) Estimate(k Key, r Request) Estimate {
	p := weigh(k.Model, r)
	est := Estimate{
		Raw: p.text.tokens(), Overhead: p.overhead, Media: p.media, Demand: llm.Demand{Chars: p.text.chars},
		Unknown: p.opaque || r.OpaqueContext,
		wide:    (p.text.wide + unit/2) / unit, choices: clampTokens(max(r.Choices, 1)), effort: r.Effort,
	}
	k = k.bounded()

	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.models.get(k.Model)
	if m == nil {
		m = &model{family: familyOf(k.Model)} // on the stack: nothing is remembered of a question
	}
	if r.PreviousResponseID != "" {
		if total := e.responses.get(responseKey{k.Client, r.PreviousResponseID}); total != nil {
			est.Overhead += *total
		} else {
			est.Unknown = true
		}
	}
	if est.Unknown {
		est.hidden = int64(m.hidden.value)
		est.Overhead += est.hidden
	}
	est.Input = clampTokens(est.Overhead + int64(math.Round(e.text(k, m, est)+float64(est.Media)*m.media.ratio())))
	if !r.NoOutput {
		est.Output = clampTokens(int64(math.Round(m.output(r.Effort))) * est.choices)
		if r.MaxOutput > 0 {
			est.MaxOutput = clampTokens(min(r.MaxOutput, maxTokens) * est.choices)
			est.Output = min(est.Output, est.MaxOutput)
		}
	}
	return est
}

// text is the calibrated weight of an estimate's text.
func (e *Estimator) text(k Key, m *model, est Estimate) float64 {
	x, r := est.weight(), m.text.ratios(m.family)
	t := x.times(r)
	if c := e.sessions.get(k); c != nil {
		t *= c.ratio(r)
	}
	return x.bound(t)
}

func (est *Estimate) weight() weight {
	return weight{plain: float64(est.Raw - est.wide), wide: float64(est.wide)}
}

// Observe teaches the Estimator what a request really cost. It is to be called
// once for every complete answer whose usage is known, with the Estimate that was
// made for it. responseID names a response that a later request may continue from;
// "" = none. Usage that cannot be true is ignored or bounded.
func (e *Estimator) Observe(k Key, est Estimate, u llm.Usage, responseID string) {
	if u.Input <= 0 || u.Input > maxTokens {
		return
	}
	k = k.bounded()

	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.modelOf(k.Model)
	if u.Output > 0 && u.Output <= maxTokens {
		m.observeOutput(est.effort, float64(u.Output)/float64(max(est.choices, 1)))
	}
	if responseID != "" && len(responseID) <= maxName {
		id := responseKey{strings.Clone(k.Client), strings.Clone(responseID)}
		*e.responses.put(id) = u.Input + min(max(u.Output, 0), maxTokens)
	}

	x, y := est.weight(), float64(u.Input-est.Overhead)
	switch {
	case est.Unknown:
		m.hidden.observe(max(0, y+float64(est.hidden)-e.text(k, m, est)-float64(est.Media)))
	case est.Media > 0:
		m.media.observe(float64(est.Media), y-e.text(k, m, est))
	case est.Raw >= minRaw:
		c := e.sessions.get(k)
		if c == nil {
			c = e.sessions.put(Key{clone(k.Model), clone(k.Client), clone(k.Session)})
		}
		c.observe(x, y)
		m.text.observe(x, y)
	}
}

// modelOf returns the model of that name, a new one if need be.
func (e *Estimator) modelOf(name llm.Model) *model {
	m := e.models.get(name)
	if m == nil {
		name = clone(name)
		m = e.models.put(name)
		*m = newModel(name)
	}
	return m
}

// Calibration is what was learned about one model at one reasoning effort, in a
// form to be stored as JSON. Its numbers mean nothing beyond Import.
type Calibration struct {
	Model  llm.Model
	Effort string

	Text    fit
	Mx, My  float64 // media: documented tokens, tokens charged
	Hidden  float64 // mean context that cannot be seen, where there is any
	Hiddens float64 // how many answers that rests on
	Output  float64 // mean completion of one choice
	Answers float64 // how many answers that rests on
}

// Export returns what was learned about models, ordered by name, for Import after
// a restart. Sessions are left out: they learn anew within an answer or two.
func (e *Estimator) Export() []Calibration {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Calibration
	for name, n := range e.models.entries {
		m := &n.value
		c := Calibration{Model: name, Text: m.text, Mx: m.media.x, My: m.media.y, Hidden: m.hidden.value, Hiddens: m.hidden.n}
		if len(m.outputs) == 0 {
			all = append(all, c)
		}
		for effort, o := range m.outputs {
			c.Effort, c.Output, c.Answers = effort, o.value, o.n
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b Calibration) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Effort, b.Effort))
	})
	return all
}

// Import takes up what an earlier process exported. Entries that no Export could
// have made are left out.
func (e *Estimator) Import(all []Calibration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range all {
		if c.Model != cut(c.Model) || !c.sane() {
			continue
		}
		m := e.modelOf(c.Model)
		m.text, m.media = c.Text, media{c.Mx, c.My}
		m.hidden = mean{c.Hidden, c.Hiddens}
		if c.Answers > 0 && len(m.outputs) < maxEfforts {
			m.outputs[c.Effort] = mean{c.Output, c.Answers}
		}
	}
}

// sane refuses what a damaged store may hold: negatives, infinities, NaN.
func (c *Calibration) sane() bool {
	for _, v := range []float64{c.Text.PP, c.Text.PW, c.Text.WW, c.Text.PY, c.Text.WY, c.Mx, c.My, c.Hidden, c.Hiddens, c.Output, c.Answers} {
		if !(v >= 0 && v <= 1e15) {
			return false
		}
	}
	return c.Text.PW*c.Text.PW <= c.Text.PP*c.Text.WW*(1+1e-9) && c.Hidden <= maxTokens && c.Output <= maxTokens
}

// maxName bounds the names that are kept, so that remembering a request costs no
// more than a few hundred bytes whatever it says.
const maxName = 256

func cut[T ~string](name T) T { return name[:min(len(name), maxName)] }

func (k Key) bounded() Key { return Key{cut(k.Model), cut(k.Client), cut(k.Session)} }

// clone makes a name independent of the request that it was cut out of.
func clone[T ~string](name T) T { return T(strings.Clone(string(name))) }

func clampTokens(n int64) int64 { return min(max(n, 0), maxTokens) }
