package proxy

import (
	"net/http"
	"strings"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/httpapi"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/session"
)

var (
	errDoubleV1 = &httpapi.Error{
		Status: http.StatusNotFound, Code: "unknown_route",
		Message: "the path holds /v1 twice: the base_url of the client ends with one /v1 too many",
	}
	errNoOrigin = &httpapi.Error{
		Status: http.StatusNotFound, Code: "unknown_route",
		Message: "OPENAI_BASE_URL has a path of its own, so /openai leads nowhere: use /v1, for example base_url = http://HOST:PORT/v1",
	}
)

// checkTarget refuses paths that cannot lead anywhere, and notes a session that
// was not taken.
func (p *Proxy) checkTarget(who session.Identity) error {
	if who.Ignored != (session.Ignored{}) {
		p.metrics.SessionsIgnored.WithLabelValues(who.Ignored.Reason).Inc()
		if _, told := p.ignored.LoadOrStore(who.Ignored, true); !told {
			p.logger.Warn("a header names no session, its requests belong to none",
				"header", who.Ignored.Header, "reason", who.Ignored.Reason, "metric", "llm_queue_proxy_session_headers_ignored_total")
		}
	}
	switch {
	case strings.HasPrefix(who.Rest, "v1/"):
		return errDoubleV1
	case who.Origin != "" && !p.upstream.ServesOrigin():
		return errNoOrigin
	}
	return nil
}
