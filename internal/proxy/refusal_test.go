package proxy

import (
	"testing"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/limit"
)

func TestRejection_RetryAfterStaysUsable(t *testing.T) {
	for reason, status := range map[limit.Reason]int{
		limit.QueueFull: 503, limit.QueueTimeout: 503, limit.DeadlineUnreachable: 503, limit.AttemptsExhausted: 503, limit.Draining: 503,
	} {
		e := rejection(&limit.Rejected{Reason: reason, RetryAfter: time.Hour})
		if e.Status != status || e.RetryAfter <= 0 || e.RetryAfter > 59*time.Second || e.Final {
			t.Errorf("%v: %+v", reason, e)
		}
	}
	if e := rejection(&limit.Rejected{Reason: limit.DailyLimit, RetryAfter: time.Hour}); !e.Final || e.RetryAfter != time.Hour {
		t.Errorf("daily limit: %+v", e)
	}
}
