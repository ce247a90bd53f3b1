package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Dialect is how limits are told, and which other headers an answer has.
type Dialect int

// The dialects.
const (
	OpenAI    Dialect = iota
	Azure             // remaining only, Azure's 429 text without numbers, paths below /openai as well
	Anthropic         // anthropic-ratelimit-* headers with times instead of durations, retry-after in seconds only
	Silent            // no rate-limit headers, no retry hints and nothing of OpenAI's: a server of one's own
)

// Config describes a simulated provider. The zero value answers at once, any model, any key, without limits.
type Config struct {
	Account  AccountConfig            // limits of every model that Accounts does not name
	Accounts map[string]AccountConfig // by model
	Aliases  map[string]string        // model as requested → model as answered and limited
	Models   []string                 // empty: every name is a model
	Keys     []string                 // accepted keys; empty: any or none
	Dialect  Dialect

	TTFT          time.Duration // from admission to the first byte
	TokenInterval time.Duration // from token to token; a JSON answer takes them all together
	Jitter        float64       // each request's times vary by up to this part of them, 0 to 1
	MaxConcurrent int           // requests in generation, over all models; more get 429. 0: any number

	Output       int                       // typical length of an answer in tokens; default 40
	Seed         uint64                    // of the answers
	Faults       []Fault                   // script of the first requests
	FaultOf      func(*http.Request) Fault // chooses each request's fault, in place of the script; nil: the script does
	Organization string                    // in error texts; default org-simulated
	MaxEntries   int                       // ledger entries kept at least, the newest; 0: all
}

// Server is a simulated provider: an [http.Handler], safe for concurrent use.
// Its time is that of package time, so it lives in a testing/synctest bubble as well.
type Server struct {
	cfg  Config
	book book

	mu        sync.Mutex
	accounts  map[string]*Account
	busy      int // requests in generation
	script    []Fault
	contexts  map[string]int64 // response id → tokens of its conversation
	files     map[string]file
	fileNames []string // ids in order of upload
	created   int64    // Unix time of the start
}

// New returns a provider. It needs no closing.
func New(cfg Config) *Server {
	cfg.Organization = cmp.Or(cfg.Organization, "org-simulated")
	cfg.Output = cmp.Or(cfg.Output, 40)
	s := &Server{
		cfg:      cfg,
		book:     book{limit: cfg.MaxEntries},
		accounts: map[string]*Account{},
		script:   slices.Clone(cfg.Faults),
		contexts: map[string]int64{},
		files:    map[string]file{},
		created:  time.Now().Unix(),
	}
	s.book.idle.L = &s.book.mu
	return s
}

// Script appends faults for the next requests, one each, in order of arrival. All
// routes take part.
func (s *Server) Script(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, faults...)
}

func (s *Server) nextFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) == 0 {
		return Fault{}
	}
	f := s.script[0]
	s.script = s.script[1:]
	return f
}

// call is one request being served.
type call struct {
	*Server
	w     *statusWriter
	r     *http.Request
	body  []byte
	fault Fault
	entry Entry
	put   Entry // as it stands in the book
}

// record brings the book up to date.
func (c *call) record() {
	c.entry.Status = c.w.status
	c.entry.Duration = time.Since(c.entry.Time)
	c.book.put(c.put, c.entry)
	c.put = c.entry
}

// maxBody bounds what one request may make the simulation hold.
const maxBody = 256 << 20

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Server: s, r: r}
	if s.cfg.FaultOf != nil {
		c.fault = s.cfg.FaultOf(r)
	} else {
		c.fault = s.nextFault()
	}
	c.w = &statusWriter{ResponseWriter: w, record: c.record}
	c.entry = Entry{
		Time: time.Now(), Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
		Proto: r.Proto, Host: r.Host, Header: r.Header.Clone(), Fault: c.fault.name,
	}
	s.book.open(&c.entry)
	c.put = c.entry
	// Deferred, because faults end requests by panicking.
	defer func() {
		c.entry.Left = !c.entry.Delivered && r.Context().Err() != nil
		c.entry.Done = true
		c.record()
	}()

	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	sum := sha256.Sum256(body)
	c.body, c.entry.BodyBytes, c.entry.BodyHash = body, int64(len(body)), hex.EncodeToString(sum[:])
	if err != nil {
		panic(http.ErrAbortHandler) // the client broke off; there is no one to answer
	}
	if len(body) > maxBody {
		refuse(c.w, http.StatusRequestEntityTooLarge, apiError{Message: "Request body too large.", Type: invalidRequest})
		return
	}
	s.setOrigin(c.w.Header(), "req_"+strconv.FormatUint(mix(s.cfg.Seed+uint64(c.entry.ID)), 16))
	c.serve()
}

// serve routes a request that was read whole.
func (c *call) serve() {
	if c.fault.interim != 0 {
		c.w.ResponseWriter.WriteHeader(c.fault.interim)
	}
	for k, v := range c.fault.header {
		c.w.Header()[http.CanonicalHeaderKey(k)] = v
	}
	if !c.authorized() {
		return
	}
	path := c.r.URL.Path
	if c.cfg.Dialect == Azure {
		path = strings.TrimPrefix(path, "/openai")
	}
	ep := endpoint(path)
	switch ep {
	case chat, completion, responses, embeddings:
		if c.r.Method == http.MethodPost {
			c.metered(ep)
			return
		}
		refuse(c.w, http.StatusMethodNotAllowed, apiError{
			Message: "Not allowed to " + c.r.Method + " on " + path + " .", Type: invalidRequest, Code: "method_not_supported",
		})
		return
	}
	if c.preempted("") {
		return
	}
	c.unmetered(path)
}

// preempted lets a fault that replaces the answer, or delays it, have its way.
func (c *call) preempted(model string) bool {
	if c.fault.instead == nil {
		return false
	}
	c.fault.instead(c.Server, c.w, c.r, model)
	return true
}

// authorized checks the key, as a bearer token or as Azure's api-key.
func (c *call) authorized() bool {
	if len(c.cfg.Keys) == 0 {
		return true
	}
	key, ok := strings.CutPrefix(c.r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		key = c.r.Header.Get("api-key")
	}
	if slices.Contains(c.cfg.Keys, key) {
		return true
	}
	e := apiError{
		Message: "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
		Type:    invalidRequest, Code: "invalid_api_key",
	}
	if key == "" {
		e.Message, e.Code = "You didn't provide an API key. You need to provide your API key in an Authorization header "+
			"using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).", ""
	}
	refuse(c.w, http.StatusUnauthorized, e)
	return false
}

// model returns the canonical name and whether it is known.
func (s *Server) model(name string) (string, bool) {
	if to, ok := s.cfg.Aliases[name]; ok {
		name = to
	}
	return name, len(s.cfg.Models) == 0 || slices.Contains(s.cfg.Models, name)
}

func (s *Server) accountConfig(model string) AccountConfig {
	if cfg, ok := s.cfg.Accounts[model]; ok {
		return cfg
	}
	return s.cfg.Account
}

// admit takes ask to model's account.
func (s *Server) admit(model string, ask Ask) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.accounts[model]
	if !ok {
		a = NewAccount(s.accountConfig(model))
		s.accounts[model] = a
	}
	if s.cfg.MaxConcurrent > 0 && s.busy >= s.cfg.MaxConcurrent {
		n := int64(s.cfg.MaxConcurrent)
		v := Verdict{RetryAfter: time.Second, Dimension: "requests", Per: "min", Limit: n, Used: n, Requested: 1}
		v.Levels = a.Levels(time.Now())
		return v
	}
	v := a.Admit(time.Now(), ask)
	if v.OK {
		s.busy++
	}
	return v
}

// settle ends an admitted request.
func (s *Server) settle(model string, ask Ask, used Used) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.accounts[model].Settle(time.Now(), ask, used)
}

// statusWriter remembers the status sent, and has it recorded before it leaves.
type statusWriter struct {
	http.ResponseWriter
	status int
	record func()
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(code int) {
	if w.status == 0 && code >= 200 {
		w.status = code
		w.record()
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the real writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
