package wire

import (
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// Providers spell usage in many ways, and add it up in several. Here is the one table of spellings; what they
// add up to is arithmetic.go. testdata/usage.json has an example of each dialect, with the row that it must make:
// a new one begins there.

// said is a count that a usage object may name.
type said uint8

const (
	saidNothing said = iota
	saidPrompt
	saidOutput
	saidTotal
	saidCached    // of the prompt: read from a cache
	saidWritten   // of the prompt: written to a cache
	saidReasoning // of the output, or beside it: the total tells
	saidThoughts  // reasoning that is beside it (Gemini)
	saidTools     // prompt tokens beside the prompt (Gemini's tool use)
	numSaid

	// What is no count.
	saidInputDetails  // an object of parts of the prompt
	saidOutputDetails // an object of parts of the output
	saidWrittenParts  // an object whose counts add up to what was written
	saidCounts        // an object of counts, where there are none around it
	saidBilled        // likewise, and before that
	saidCost
	saidTicks // a cost in 1e-10 US dollars
	saidCurrency
)

// A spelling is what a name means. Names are compared without underscores and without regard to case, so that prompt_tokens and
// promptTokens are one.
type spelling struct {
	means said
	apart bool // by this name the count may stand beside the prompt, or the output, and not in it
}

// spellings of a usage object. In brackets: who spells so, where it is not everybody.
var spellings = map[string]spelling{
	"prompttokens":     {means: saidPrompt},
	"inputtokens":      {means: saidPrompt, apart: true}, // Anthropic, Bedrock: without caches, if these have names of their own; Responses: with them
	"prompttokencount": {means: saidPrompt},              // Gemini

	"completiontokens":     {means: saidOutput},
	"outputtokens":         {means: saidOutput},
	"candidatestokencount": {means: saidOutput}, // Gemini

	"totaltokens":     {means: saidTotal},
	"totaltokencount": {means: saidTotal}, // Gemini

	"cachedtokens":            {means: saidCached},              // Moonshot
	"promptcachehittokens":    {means: saidCached},              // DeepSeek
	"numcachedtokens":         {means: saidCached},              // vLLM, Mistral
	"cachedprompttokens":      {means: saidCached},              // Fireworks
	"cachedinputtokens":       {means: saidCached},              // Vercel
	"cachedcontenttokencount": {means: saidCached},              // Gemini
	"cachereadinputtokens":    {means: saidCached, apart: true}, // Anthropic, Bedrock; LiteLLM

	"cachecreationinputtokens": {means: saidWritten, apart: true}, // Anthropic; LiteLLM
	"cachewriteinputtokens":    {means: saidWritten, apart: true}, // Bedrock
	"cachecreation":            {means: saidWrittenParts},         // Anthropic: by how long they live

	"reasoningtokens":         {means: saidReasoning, apart: true}, // Perplexity
	"thoughtstokencount":      {means: saidThoughts},               // Gemini
	"tooluseprompttokencount": {means: saidTools},                  // Gemini

	"prompttokensdetails":     {means: saidInputDetails},
	"prompttokendetails":      {means: saidInputDetails},
	"inputtokensdetails":      {means: saidInputDetails}, // Responses
	"inputtokendetails":       {means: saidInputDetails}, // realtime, LangChain
	"completiontokensdetails": {means: saidOutputDetails},
	"completiontokendetails":  {means: saidOutputDetails},
	"outputtokensdetails":     {means: saidOutputDetails}, // Responses
	"outputtokendetails":      {means: saidOutputDetails}, // realtime, LangChain

	"tokens":      {means: saidCounts}, // Cohere
	"billedunits": {means: saidBilled}, // Cohere

	"cost":            {means: saidCost}, // OpenRouter; an object at Perplexity
	"totalcost":       {means: saidCost},
	"estimatedcost":   {means: saidCost},  // DeepInfra
	"costinusdticks":  {means: saidTicks}, // xAI
	"currency":        {means: saidCurrency},
	"costcurrency":    {means: saidCurrency},
	"pricingcurrency": {means: saidCurrency},
}

// detailSpellings are those of the parts of a prompt and of an output.
var detailSpellings = map[said]map[string]said{
	saidInputDetails: {
		"cachedtokens": saidCached, "cachereadtokens": saidCached, "cachereadinputtokens": saidCached, "cacheread": saidCached,
		"cachewritetokens": saidWritten, "cachecreationtokens": saidWritten, "cachecreationinputtokens": saidWritten, // OpenRouter; LiteLLM
		"cachewriteinputtokens": saidWritten, "cachecreation": saidWritten, "cachewrite": saidWritten,
	},
	saidOutputDetails: {
		"reasoningtokens": saidReasoning, "reasoning": saidReasoning, "thinkingtokens": saidReasoning, "thoughtstokens": saidReasoning,
	},
}

// costSpellings are those of an object that tells a cost in parts.
var costSpellings = map[string]said{"totalcost": saidCost, "total": saidCost, "amount": saidCost, "currency": saidCurrency}

// spelled writes a name into b in the form of the tables. A longer one than theirs is in none.
func spelled(b *[32]byte, name []byte) []byte {
	n := 0
	for _, c := range unescape(name) {
		switch {
		case c == '_':
			continue
		case n == len(b):
			return nil
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		b[n] = c
		n++
	}
	return b[:n]
}

// A tally is what the usage objects of an answer said. Of one object, or of several: see merge.
type tally struct {
	n     [numSaid]int64
	has   [numSaid]bool
	apart [numSaid]bool // what spelling.apart says of the name that it came by

	cost, currency string
	odd            bool // a total was told that is none
}

// readUsage reads a usage object. ok is false if it tells nothing, or if one of its sums is no plain count: a
// made-up number must not reach the ledger as exact. A zero is a count, and null is none. Parts
// that make no sense are left out; the sums stand.
func readUsage(b []byte) (t tally, ok bool) {
	bad := t.readObject(b, 0)
	if t.odd && !(t.has[saidPrompt] && t.has[saidOutput]) {
		bad = true
	}
	return t, !bad && (t.has[saidPrompt] || t.has[saidOutput] || t.has[saidTotal] || t.cost != "")
}

// readObject reads the members of one object; depth bounds those that hold others.
func (t *tally) readObject(b []byte, depth int) (bad bool) {
	var buf [32]byte
	var counts, billed tally
	m := membersOf(b)
	for m.next() {
		s := spellings[string(spelled(&buf, m.name))]
		switch {
		case s.means == saidNothing || isNull(m.value):
		case s.means < numSaid:
			n, count := countValue(m.value)
			if !count {
				bad = bad || s.means < saidTotal
				t.odd = t.odd || s.means == saidTotal
				continue
			}
			t.note(s.means, n, s.apart)
		case s.means == saidCounts && depth == 0:
			counts.readObject(m.value, depth+1)
		case s.means == saidBilled && depth == 0:
			billed.readObject(m.value, depth+1)
		default:
			t.readOther(s.means, m.value)
		}
	}
	for _, inner := range [...]*tally{&billed, &counts} {
		if !t.has[saidPrompt] && !t.has[saidOutput] {
			t.take(inner)
		}
	}
	return bad || !m.valid()
}

// readOther reads a member that is no count.
func (t *tally) readOther(s said, v []byte) {
	switch s {
	case saidInputDetails, saidOutputDetails:
		t.readDetails(v, detailSpellings[s])
	case saidWrittenParts:
		t.note(saidWritten, sumOfCounts(v), true)
	case saidCost:
		t.readCost(v)
	case saidTicks:
		t.setCost(string(v), -10, "USD")
	case saidCurrency:
		t.setCurrency(v)
	}
}

// take notes all counts of another tally.
func (t *tally) take(o *tally) {
	for s, has := range o.has {
		if has {
			t.note(said(s), o.n[s], o.apart[s])
		}
	}
}

// note keeps a count. Of several names for one thing in one object the largest counts: gateways fill in
// those that they do not use with zeros.
func (t *tally) note(s said, n int64, apart bool) {
	if t.has[s] && n <= t.n[s] {
		return
	}
	t.n[s], t.has[s], t.apart[s] = n, true, apart
}

func (t *tally) readDetails(b []byte, names map[string]said) {
	var buf [32]byte
	for m := membersOf(b); m.next(); {
		s := names[string(spelled(&buf, m.name))]
		if s == saidNothing || isNull(m.value) {
			continue
		}
		if n, count := countValue(m.value); count {
			t.note(s, n, false)
		}
	}
}

// sumOfCounts adds up the members of an object.
func sumOfCounts(b []byte) (sum int64) {
	for m := membersOf(b); m.next(); {
		if n, count := countValue(m.value); count {
			sum = min(sum+n, llm.MaxTokens)
		}
	}
	return sum
}

func (t *tally) readCost(v []byte) {
	if v[0] != '{' {
		t.setCost(unquoted(v), 0, t.currency)
		return
	}
	var buf [32]byte
	for m := membersOf(v); m.next(); {
		switch costSpellings[string(spelled(&buf, m.name))] {
		case saidCost:
			t.setCost(unquoted(m.value), 0, t.currency)
		case saidCurrency:
			t.setCurrency(m.value)
		}
	}
}

// setCost keeps a decimal, times ten to the power of shift, if it is one.
func (t *tally) setCost(number string, shift int, currency string) {
	if text, ok := llm.Decimal(number, shift); ok && (llm.Told{Cost: text}).CostStands() {
		t.cost, t.currency = text, currency
	}
}

func (t *tally) setCurrency(v []byte) {
	if word := strings.ToUpper(unquoted(v)); (llm.Told{Cost: "0", Currency: word}).CostStands() {
		t.currency = word
	}
}

// countValue reads a count of tokens: a number, or one in a string.
func countValue(v []byte) (n int64, ok bool) {
	if len(v) > 2 && v[0] == '"' {
		v = v[1 : len(v)-1]
		for _, c := range v {
			if (c < '0' || c > '9') && c != '.' {
				return 0, false
			}
		}
	}
	n, ok = intValue(v)
	return n, ok && n >= 0 && n <= llm.MaxTokens
}

// unquoted is the text of a string, or a number as it is spelled.
func unquoted(v []byte) string {
	if s, ok := stringValue(v); ok {
		return s
	}
	return string(v)
}

// merge takes over what a later usage object of the same answer says. Members come together, since some servers tell
// the prompt in the first event and the output in the last; of each the last counts, for whoever
// repeats usage sums it up. An object that knows nothing of the prompt says zero of it, and takes nothing back.
func (t *tally) merge(later *tally) {
	blind := later.n[saidPrompt] == 0
	for s := range later.n {
		ofPrompt := said(s) == saidPrompt || said(s) == saidCached || said(s) == saidWritten
		if !later.has[s] || t.has[s] && later.n[s] == 0 && ofPrompt && blind {
			continue
		}
		t.n[s], t.has[s], t.apart[s] = later.n[s], true, later.apart[s]
	}
	if (later.has[saidPrompt] || later.has[saidOutput]) && !later.has[saidTotal] {
		t.n[saidTotal], t.has[saidTotal] = 0, false // that of before is not of these
	}
	if later.cost != "" {
		t.cost, t.currency = later.cost, later.currency
	}
}
