package wire

import (
	"strings"
	"testing"
	"time"
)

func TestQuotable_HidesSecretsByTheirForm(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"Rate limit reached for gpt-4o-2024-08-06 on tokens per min (TPM): Limit 30000.", "Rate limit reached for gpt-4o-2024-08-06 on tokens per min (TPM): Limit 30000."},
		{"model meta-llama/Llama-3.1-405B-Instruct-Turbo, claude-sonnet-4-5-20250929", "model meta-llama/Llama-3.1-405B-Instruct-Turbo, claude-sonnet-4-5-20250929"},
		{"Incorrect API key provided: sk-proj-abc***xyz9.", "Incorrect API key provided: […]"},
		{"key sk-ant-api03-Abc_123-xyz is over", "key sk-[…] is over"},
		{"for gsk_abcdefghijklmnop", "for gsk_[…]"},
		{"key=AIzaSyA1234567890abcdef", "key=[…]"},
		{"Authorization: Bearer abc.def-ghi", "Authorization: […] […]"},
		{"limit of org-Ab12Cd34Ef56 and user_2aBcDeFgH", "limit of org-[…] and user_[…]"},
		{"limit of jane.doe+x@example.org", "limit of […]"},
		{"see https://u:p@host.example/path?key=abcdef#frag now", "see https://host.example/path now"},
		{"id 123e4567-e89b-12d3-a456-426614174000", "id […]"},
		{"token eyJhbGciOi.eyJzdWIi.sig_abc", "token […]"},
		{"password: hunter2, api_key=\"abc\"", "password: […], api_key=\"[…]\""},
		{"hash d41d8cd98f00b204e9800998ecf8427e", "hash […]"},
		{"two\nlines\x1b[31m\u202e", "two lines [31m"},
	} {
		if got := Quotable(tt.text); got != tt.want {
			t.Errorf("%q\n got %q\nwant %q", tt.text, got, tt.want)
		}
		if again := Quotable(tt.want); again != tt.want {
			t.Errorf("%q is quoted as %q", tt.want, again)
		}
	}
	if got := Quotable(strings.Repeat("é", 500)); len(got) > maxSaid || !strings.HasSuffix(got, "é…") {
		t.Errorf("a long text is cut to %q", got)
	}
}

func TestParseThrottle_QuotesTheProvider(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{openAIError("Spending limit reached", "", "spend_limit"), "spend_limit: Spending limit reached"},
		{`{"error":{"message":"busy","code":429}}`, "busy"},
		{`{"error":{"code":"E77"}}`, "E77"},
		{`{"errors":[{"message":"first"},{"message":"second"}]}`, "first"},
		{"<html><title>Too many</title><body>Come  back\nlater</body></html>", "Too many Come back later"},
		{"", ""},
	} {
		if _, s := ParseThrottle("", nil, []byte(tt.body), time.Now()); s.Said != tt.want {
			t.Errorf("%s is quoted as %q, want %q", tt.body, s.Said, tt.want)
		}
	}
}
