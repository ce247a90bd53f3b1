// Package client is a typed client of llm-queue-proxy's own routes: the sessions
// and their exact token usage, the requests behind them, the queue, and health.
// It needs the standard library only. Calls to the language models themselves go
// through an OpenAI SDK whose base URL is the sidecar.
//
//	c, err := client.New("http://127.0.0.1:8080")
//	if err != nil {
//		return err
//	}
//	for session, err := range c.Sessions(ctx) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(session.ID, session.TotalTokens)
//	}
//
// Where the sidecar has an ADMIN_ADDR, these routes are there and not on the
// address that SDKs use.
//
// Every method takes a context, which bounds the call as a whole; there is no
// other timeout and, [Client.WaitReady] aside, no retry. An answer other than 2xx
// is an [*Error] with the sidecar's code and, where it gave one, the time to wait.
// Fields that a newer sidecar adds are ignored. Counts named tokens are tokens of
// the language model, as the provider billed them; usage that no provider stated
// is unknown, never estimated, and counted apart.
package client
