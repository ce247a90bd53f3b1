package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxAnswer bounds what is read of one answer, in bytes: a million sessions fit,
// and something that is not a sidecar cannot fill the memory.
const maxAnswer = 256 << 20

// Client calls one sidecar. [New] makes one; the zero Client knows no sidecar and
// must not be used. It is safe for concurrent use and holds no resources beyond its
// http.Client's connections, so it need not be closed.
type Client struct {
	base     string // scheme, host and path prefix, no trailing slash
	key      string
	pageSize int
	of       *string // nil: whatever the key sees
	http     *http.Client
}

// An Option adjusts a [Client].
type Option func(*Client)

// WithKey sets the key to present, one of the sidecar's ADMIN_API_KEYS or CLIENT_API_KEYS: an admin's shows the sessions
// of all clients, a client's its own. It is
// sent as a bearer token, to the sidecar only: redirects are not followed.
func WithKey(key string) Option { return func(c *Client) { c.key = key } }

// WithHTTPClient sets the http.Client to send with, in place of
// http.DefaultClient. A copy is used; its CheckRedirect is respected.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

// WithPageSize sets how many entries [Client.Sessions] and [Client.Requests]
// fetch at once, 500 at most. Without it the sidecar decides.
func WithPageSize(n int) Option { return func(c *Client) { c.pageSize = n } }

// New returns a client of the sidecar at baseURL, such as
// "http://127.0.0.1:8080". The base URL of an SDK, ending in "/v1" or
// "/v1/session/{id}", does as well: what follows the host's own path is cut off.
// New does not connect; it returns an error if baseURL is no http or https URL.
func New(baseURL string, opts ...Option) (*Client, error) {
	u, err := url.Parse(baseURL)
	// The URL is not printed, since a malformed one may hold a password.
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New(`client: base URL: want one like "http://127.0.0.1:8080"`)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("client: base URL: the sidecar's URL has no user, query or fragment; give a key by WithKey")
	}
	prefix := strings.TrimRight(u.EscapedPath(), "/")
	if at := strings.Index(prefix+"/", "/v1/"); at >= 0 {
		prefix = prefix[:at]
	}
	c := &Client{base: u.Scheme + "://" + u.Host + prefix}
	for _, opt := range opts {
		opt(c)
	}
	// The sidecar sends no redirects, and http.Client would take the key along to
	// another port of the same host.
	own := http.Client{}
	if c.http != nil {
		own = *c.http
	}
	if own.CheckRedirect == nil {
		own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	c.http = &own
	return c, nil
}

// Of returns a client that asks for the sessions and the usage of one client of the sidecar, by the name of its key;
// "" is nobody, to whom the sessions belong that were used without a key. That takes an admin's key, or none
// where the sidecar has no keys. Without Of, an admin's questions are about all clients.
func (c *Client) Of(client string) *Client {
	one := *c
	one.of = &client
	return &one
}

// whose is the start of a query.
func (c *Client) whose() url.Values {
	query := make(url.Values)
	if c.of != nil {
		query.Set("client", *c.of)
	}
	return query
}

// call sends one request and decodes the answer into out, unless out is nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, out any) error {
	fail := func(err error) error {
		return fmt.Errorf("client: %s %s: %w", strings.ToLower(method), path, err)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Accept", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fail(unwrapURL(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fail(readError(resp))
	}
	if out == nil {
		// Read to the end, or the connection cannot be used again.
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody))
	} else {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
	}
	if err != nil {
		return fail(fmt.Errorf("read answer: %w", err))
	}
	return nil
}

// unwrapURL drops the method and URL that http.Client adds and call has said.
func unwrapURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// pages walks a paged route by the cursors that the sidecar hands out. They name
// a position in the order, not a count: rows that come or go meanwhile neither
// shift nor repeat others.
func pages[T any](ctx context.Context, c *Client, path string, fetch func(ctx context.Context, query url.Values) ([]T, *string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		query := c.whose()
		if c.pageSize > 0 {
			query.Set("limit", strconv.Itoa(c.pageSize))
		}
		for {
			rows, next, err := fetch(ctx, query)
			if err != nil {
				yield(zero, err)
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if next == nil || *next == "" {
				return
			}
			if *next == query.Get("cursor") {
				yield(zero, fmt.Errorf("client: get %s: the answer's next_cursor leads to the same page", path))
				return
			}
			query.Set("cursor", *next)
		}
	}
}
