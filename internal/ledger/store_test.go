package ledger

import (
	"context"
	"testing"
	"time"
)

func testRecord(session string) Record {
	return Record{
		ID: NewID(), StartedAt: time.Now(), Session: session, Client: "alice", Route: "chat/completions",
		Metered: true, Stream: true, Model: "gpt-4o", AnsweredModel: "gpt-4o-2024-08-06", Status: 200, Outcome: Complete,
		Usage: Usage{Prompt: 10, Completion: 5, Cached: 4, Reasoning: 2}, UsageKnown: true,
		EstimatedPrompt: 12, EstimatedOutput: 9, Attempts: 1,
		QueueWait: 3 * time.Millisecond, FirstByte: 40 * time.Millisecond, Total: 90 * time.Millisecond,
	}
}

func TestStore_RecordCountsOnce(t *testing.T) {
	s, err := Open(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	r := testRecord("a")
	for range 3 {
		if err := s.Record(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Session(t.Context(), "a")
	if err != nil || got.Requests != 1 || got.PromptTokens != 10 {
		t.Fatalf("session = %+v, %v; want one request of 10 prompt tokens", got, err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
