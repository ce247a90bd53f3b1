package ledger

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/llm"
)

// ID names one request for ever. It is a UUIDv7 (RFC 9562): its first 48 bits are
// unix milliseconds, so ids sort by time and a range of ids is a range of time.
// The id is the idempotency key: a record is counted once per ID, however often it is offered.
type ID [16]byte

// NewID returns a fresh, time-ordered ID. It is safe for concurrent use.
func NewID() ID { return ID(uuid.Must(uuid.NewV7())) }

// parseID reads the canonical text form of an ID; the error wraps [ErrInvalid].
func parseID(text string) (ID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return ID{}, fmt.Errorf("parse request id: %w: %w", ErrInvalid, err)
	}
	return ID(id), nil
}

// String returns the canonical form, xxxxxxxx-xxxx-7xxx-xxxx-xxxxxxxxxxxx.
func (id ID) String() string { return uuid.UUID(id).String() }

// Time returns the instant an ID was made, to the millisecond.
func (id ID) Time() time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms).UTC()
}

// MarshalText and UnmarshalText use the canonical form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = parseID(string(text))
	return err
}

// idFloor is the smallest ID that a request of instant t can have.
func idFloor(t time.Time) (id ID) {
	ms := max(t.UnixMilli(), 0)
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// Outcome says how a request that was sent upstream ended. The numbers are stored.
type Outcome uint8

// Outcomes. A request that was never sent is NotSent, and is never recorded.
const (
	NotSent       Outcome = 0
	Complete      Outcome = 1 // the whole answer reached the client
	ClientGone    Outcome = 2 // the client left before the end
	UpstreamError Outcome = 3 // the upstream refused, or the connection to it broke
	Truncated     Outcome = 4 // the answer ended early
	Interrupted   Outcome = 5 // the sidecar died while the request was in flight
)

var outcomeNames = [...]string{"not_sent", "complete", "client_gone", "upstream_error", "truncated", "interrupted"}

func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Record is one request that was sent upstream. Times are kept to the millisecond.
type Record struct {
	ID        ID
	StartedAt time.Time

	Owner   string `json:",omitempty"` // the client whose session it is; "" = nobody's
	Session string // "" = none
	Parent  string // session whose budget this one draws on, "" = none
	Draws   []Draw // the budgets that it counts against
	Client  string
	Route   string // "chat/completions", …; "other" for what is not metered

	Metered, Stream      bool
	Model, AnsweredModel llm.Model
	Status               int // of the upstream's answer; 0 = there was none
	Outcome              Outcome
	Refused              bool `json:",omitzero"` // the answer was an error and nothing else, whatever its status says; not read back

	Usage      llm.Usage
	UsageKnown bool     // false: the usage is stored as NULL, never as zero
	Told       llm.Told `json:",omitzero"`

	EstimatedPrompt, EstimatedOutput int64
	Attempts                         int

	QueueWait, FirstByte, Total time.Duration
}

// usageJSON is a Usage in JSON. Journals of all versions have these names.
type usageJSON struct {
	Input     int64 `json:"Prompt"`
	Output    int64 `json:"Completion"`
	Cached    int64
	Reasoning int64

	CacheWrite int64 `json:",omitempty"`
}

type plainRecord Record

type recordJSON struct {
	plainRecord
	Usage usageJSON
}

// MarshalJSON writes r as the journal and the log keep it.
func (r Record) MarshalJSON() ([]byte, error) {
	return json.Marshal(recordJSON{plainRecord(r), usageJSON(r.Usage)})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (r *Record) UnmarshalJSON(text []byte) error {
	var v recordJSON
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	*r = Record(v.plainRecord)
	r.Usage = llm.Usage(v.Usage)
	return nil
}

// ErrInvalid marks input that can never be stored or answered: retrying is useless.
// ErrNotFound is the answer to a name that the ledger does not know, ErrAmbiguous to one that it knows more than once.
// ErrUnavailable means that the store cannot be reached or written now; it wraps the driver's error.
// ErrClosed is returned after Close.
var (
	ErrInvalid     = errors.New("invalid")
	ErrNotFound    = errors.New("not found")
	ErrAmbiguous   = errors.New("several clients have a session of this id")
	ErrUnavailable = errors.New("ledger unavailable")
	ErrClosed      = errors.New("ledger closed")
)

const (
	maxKeyBytes  = 128 // session ids, contract
	maxTextBytes = 256 // model names, clients, routes: names, not content
)

// prepare makes r what every backend stores, or says why no backend ever could. One bad
// string would fail the whole batch it travels in, so it is stopped here. Model names and
// routes come from outside: what is no text becomes text and is cut, since
// a strange name is no reason to lose an exact count.
func (r *Record) prepare() error {
	switch {
	case r.ID == ID{}:
		return fmt.Errorf("record: %w: no id", ErrInvalid)
	case r.Outcome == NotSent || int(r.Outcome) >= len(outcomeNames):
		return fmt.Errorf("record %s: %w: outcome %s", r.ID, ErrInvalid, r.Outcome)
	case r.StartedAt.UnixMilli() < 0 || r.StartedAt.Year() > 9999:
		return fmt.Errorf("record %s: %w: start time %v", r.ID, ErrInvalid, r.StartedAt)
	case r.Usage.Least() < 0:
		return fmt.Errorf("record %s: %w: negative usage", r.ID, ErrInvalid)
	case r.Usage.Most() > MaxTokens:
		return fmt.Errorf("record %s: %w: usage beyond %d tokens", r.ID, ErrInvalid, int64(MaxTokens))
	}
	for _, key := range []string{r.Session, r.Parent} {
		if !storable(key, maxKeyBytes) {
			return fmt.Errorf("record %s: %w: session id", r.ID, ErrInvalid)
		}
	}
	if !storable(r.Owner, maxTextBytes) { // cut, it might be another client's
		return fmt.Errorf("record %s: %w: owner", r.ID, ErrInvalid)
	}
	if err := checkDraws(r.Draws); err != nil {
		return fmt.Errorf("record %s: %w", r.ID, err)
	}
	if !r.UsageKnown {
		r.Usage = llm.Usage{}
	}
	r.Told = tidyTold(r.Told)
	r.Client, r.Route = cleanText(r.Client), cleanText(r.Route)
	r.Model, r.AnsweredModel = cleanText(r.Model), cleanText(r.AnsweredModel)
	r.EstimatedPrompt, r.EstimatedOutput = max(r.EstimatedPrompt, 0), max(r.EstimatedOutput, 0)
	r.Attempts = max(r.Attempts, 0)
	r.StartedAt = r.StartedAt.UTC().Truncate(time.Millisecond)
	r.QueueWait, r.FirstByte, r.Total = wholeMillis(r.QueueWait), wholeMillis(r.FirstByte), wholeMillis(r.Total)
	return nil
}

// tidyTold leaves out what is no total, no cost or no currency: strange news beside a count is no reason to lose the count.
func tidyTold(t llm.Told) llm.Told {
	if t.Total < 0 || t.Total > MaxTokens {
		t.Total = 0
	}
	if !t.CostStands() {
		t.Cost, t.Currency = "", ""
	}
	return t
}

// MaxTokens bounds each count of a Record's usage.
const MaxTokens = llm.MaxTokens

func wholeMillis(d time.Duration) time.Duration { return max(d, 0).Truncate(time.Millisecond) }

// storable tells whether every backend takes s as it is: valid UTF-8 without NUL, of at most so many bytes.
func storable(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// cleanText makes a text valid UTF-8 without NUL and at most maxTextBytes long.
func cleanText[T ~string](text T) T {
	s := string(text)
	if storable(s, maxTextBytes) {
		return text
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) > maxTextBytes {
		s = strings.ToValidUTF8(s[:maxTextBytes], "")
	}
	return T(s)
}

// Billed is the model that r counts for and whose price holds: the one that was
// asked for, or the one that answered if nobody asked for any.
func (r *Record) Billed() llm.Model { return cmp.Or(r.Model, r.AnsweredModel) }

// counted tells whether r is one of a session's requests: metered, and answered 2xx.
func (r *Record) counted() bool { return r.Metered && r.Status >= 200 && r.Status < 300 }

// unknown tells whether r may have cost tokens that nobody has counted: a metered request
// without usage, unless the upstream refused it, for a refusal is not billed.
func (r *Record) unknown() bool {
	return r.Metered && !r.UsageKnown && !r.Refused && (r.Status == 0 || r.counted())
}
