package provider_test

import (
	"fmt"
	"time"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/provider"
)

// An account by itself, in virtual time.
func ExampleAccount() {
	account := provider.NewAccount(provider.AccountConfig{TPM: 30000})
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	account.Admit(noon, provider.Ask{MaxOutput: 29937})

	v := account.Admit(noon, provider.Ask{MaxOutput: 385})
	fmt.Println(v.OK, v.Used, v.Requested, v.RetryAfter)

	v = account.Admit(noon.Add(v.RetryAfter), provider.Ask{MaxOutput: 385})
	fmt.Println(v.OK)
	// Output:
	// false 29937 385 644ms
	// true
}
