package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// control serves what tests in other languages need beside the API itself:
//
//	POST /faults?fault=reset+120&fault=quota   damages the next two requests
//	GET  /totals                               what was admitted and billed so far
func control(server *provider.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var faults []provider.Fault
		for _, text := range r.URL.Query()["fault"] {
			fault, err := parseFault(text)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			faults = append(faults, fault)
		}
		server.Script(faults...)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /totals", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(server.Totals()) // a client that left needs no answer
	})
	return mux
}

// refusals are the errors of the API that "status CODE" answers with.
var refusals = map[int]string{
	http.StatusBadRequest:          "context_length_exceeded",
	http.StatusUnauthorized:        "invalid_api_key",
	http.StatusForbidden:           "unsupported_country_region_territory",
	http.StatusNotFound:            "model_not_found",
	http.StatusConflict:            "conflict",
	http.StatusUnprocessableEntity: "unprocessable",
}

// parseFault reads a kind of fault and its number: a status, a byte of the body,
// or milliseconds.
func parseFault(text string) (provider.Fault, error) {
	kind, argument, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(argument)
	if argument != "" && (err != nil || n < 0) {
		return provider.Fault{}, fmt.Errorf("fault %.40q: want a number behind its kind", text)
	}
	switch kind {
	case "sound":
		return provider.Sound(), nil
	case "quota":
		return provider.Quota(), nil
	case "too-large":
		return provider.TooLarge(), nil
	case "throttle":
		return provider.Throttle(time.Duration(n) * time.Millisecond), nil
	case "no-headers":
		return provider.NoHeaders(), nil
	case "cut":
		return provider.CutAfterBytes(int64(n)), nil
	case "reset":
		return provider.ResetAfterBytes(int64(n)), nil
	case "status":
		if code := refusals[n]; code != "" {
			return provider.Status(n, nil, fmt.Sprintf(
				`{"error":{"message":"Refused because of %s.","type":"invalid_request_error","param":"model","code":"%s"}}`, code, code)), nil
		}
		if n >= 500 && n <= 599 {
			return provider.ServerError(n), nil
		}
	}
	return provider.Fault{}, fmt.Errorf("fault %.40q: no such fault", text)
}
