package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// apiError is the body's "error" object. Code and Param are null when empty.
type apiError struct {
	Message string
	Type    string
	Param   string
	Code    string
}

// MarshalJSON implements json.Marshaler.
func (e apiError) MarshalJSON() ([]byte, error) {
	null := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	return json.Marshal(struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}{e.Message, e.Type, null(e.Param), null(e.Code)})
}

const invalidRequest = "invalid_request_error"

// refuse answers with an error object, indented as OpenAI's are.
func refuse(w http.ResponseWriter, status int, e apiError) {
	body, err := json.MarshalIndent(map[string]apiError{"error": e}, "", "    ")
	if err != nil {
		panic(err) // four strings cannot fail to encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that left is seen by its context
}

// refuseParse explains why a metered body was not understood.
func refuseParse(w http.ResponseWriter, err error) {
	e := apiError{Message: err.Error(), Type: invalidRequest}
	switch cause := err.(type) { //nolint:errorlint // encoding/json returns these unwrapped
	case *json.SyntaxError:
		e.Message = "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. " +
			"The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
	case *json.UnmarshalTypeError:
		e.Message = fmt.Sprintf("Invalid type for '%s': got %s instead.", cause.Field, cause.Value)
		e.Param, e.Code = cause.Field, "invalid_type"
	case errMissing:
		e.Param, e.Code = string(cause), "missing_required_parameter"
		if cause == "model" {
			e.Message, e.Param, e.Code = "you must provide a model parameter", "", ""
		}
	}
	refuse(w, http.StatusBadRequest, e)
}

// duration formats d as the provider does: "6m0s", "1.2s", "120ms", never less than it is.
func duration(d time.Duration) string {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond).String()
}

// setOrigin writes the headers that tell whose answer it is, as they were seen of
// each provider. Azure and Anthropic have some of OpenAI's as well.
func (s *Server) setOrigin(h http.Header, id string) {
	switch s.cfg.Dialect {
	case OpenAI:
		h.Set("x-request-id", id)
		h.Set("openai-version", "2020-10-01")
		h.Set("openai-organization", s.cfg.Organization)
	case Azure:
		h.Set("x-request-id", id)
		h.Set("apim-request-id", id)
		h.Set("x-ms-client-request-id", id)
		h.Set("x-ms-region", "Sweden Central")
		h.Set("azureml-model-session", "d008-20240215231538")
	case Anthropic:
		h.Set("request-id", id)
		h.Set("anthropic-organization-id", s.cfg.Organization)
		h.Set("openai-version", "2020-10-01")
	case Silent:
		h.Set("x-request-id", id)
	}
}

// setProcessing writes how long the answer took to begin.
func (s *Server) setProcessing(h http.Header, took time.Duration) {
	if s.cfg.Dialect == OpenAI || s.cfg.Dialect == Azure {
		h.Set("openai-processing-ms", strconv.FormatInt(took.Milliseconds(), 10))
	}
}

// setLevels writes the rate-limit headers.
func setLevels(h http.Header, dialect Dialect, now time.Time, levels Levels) {
	for kind, l := range map[string]Level{
		"requests": levels.Requests, "tokens": levels.Tokens, "input-tokens": levels.Input, "output-tokens": levels.Output,
	} {
		limit, remaining := strconv.FormatInt(l.Limit, 10), strconv.FormatInt(l.Remaining, 10)
		switch {
		case l.Limit == 0 || dialect == Silent:
		case dialect == Anthropic:
			h.Set("anthropic-ratelimit-"+kind+"-limit", limit)
			h.Set("anthropic-ratelimit-"+kind+"-remaining", remaining)
			h.Set("anthropic-ratelimit-"+kind+"-reset", now.Add(l.Reset+time.Second-1).UTC().Format(time.RFC3339))
		case dialect == Azure: // known to send neither limit nor reset
			h.Set("x-ratelimit-remaining-"+kind, remaining)
		default:
			h.Set("x-ratelimit-limit-"+kind, limit)
			h.Set("x-ratelimit-remaining-"+kind, remaining)
			h.Set("x-ratelimit-reset-"+kind, duration(l.Reset))
		}
	}
}

// setRetry writes the hints when to come back, rounded up.
func setRetry(h http.Header, dialect Dialect, after time.Duration) {
	if dialect == Silent {
		return
	}
	h.Set("retry-after", strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10))
	if dialect != Anthropic {
		h.Set("retry-after-ms", strconv.FormatInt(int64((after+time.Millisecond-1)/time.Millisecond), 10))
	}
}

const (
	limitsPage = "https://platform.openai.com/account/rate-limits"
	quotaText  = "You exceeded your current quota, please check your plan and billing details. For more information on this error, " +
		"read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)

// throttle answers 429 for a verdict that is not OK, worded as the dialect does. Clients
// parse these texts for their numbers, so the wording is part of the simulation:
// OpenAI's from public issue threads, Azure's from its support forum.
func (s *Server) throttle(w http.ResponseWriter, model string, v Verdict) {
	e := apiError{Type: v.Dimension, Code: "rate_limit_exceeded"}
	limit := strings.ReplaceAll(v.Dimension, "_", " ") + " per " + v.Per
	short := strings.ToUpper(v.Dimension[:1]) + "P" + strings.ToUpper(v.Per[:1])
	if v.Dimension == "input_tokens" || v.Dimension == "output_tokens" {
		short = strings.ToUpper(v.Dimension[:1]) + "TP" + strings.ToUpper(v.Per[:1])
	}
	where := fmt.Sprintf("for %s in organization %s on %s (%s): Limit %d,", model, s.cfg.Organization, limit, short, v.Limit)
	switch {
	case v.Permanent:
		e.Message = fmt.Sprintf("Request too large %s Requested %d. The input or output tokens must be reduced in order to run successfully. "+
			"Visit %s to learn more.", where, v.Requested, limitsPage)
	case s.cfg.Dialect == Azure:
		kind := "token"
		if v.Dimension == "requests" {
			kind = "call"
		}
		e.Type, e.Code = "", "429"
		e.Message = fmt.Sprintf("Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded %s rate limit "+
			"of your current OpenAI S0 pricing tier. Please retry after %d seconds. Please go here: https://aka.ms/oai/quotaincrease "+
			"if you would like to further increase the default rate limit.", kind, int64((v.RetryAfter+time.Second-1)/time.Second))
	case s.cfg.Dialect == Anthropic:
		e.Type, e.Code = "rate_limit_error", ""
		e.Message = fmt.Sprintf("This request would exceed your organization's (%s) rate limit of %d %s per minute.",
			s.cfg.Organization, v.Limit, strings.ReplaceAll(v.Dimension, "_", " "))
	default:
		e.Message = fmt.Sprintf("Rate limit reached %s Used %d, Requested %d. Please try again in %s. Visit %s to learn more.",
			where, v.Used, v.Requested, duration(v.RetryAfter), limitsPage)
	}
	if !v.Permanent {
		setRetry(w.Header(), s.cfg.Dialect, v.RetryAfter)
	}
	refuse(w, http.StatusTooManyRequests, e)
}
