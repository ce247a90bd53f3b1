package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/llm-queue-proxy/llm-queue-proxy/internal/admin"
	"github.com/llm-queue-proxy/llm-queue-proxy/internal/config"
)

// A usageError is a wrong command line. It ends the program with exit status 2.
type usageError struct{ error }

// commands is the command line. Every setting that is no secret is also a flag
// of every command.
func commands(getenv func(string) string, stdout, stderr io.Writer) *cobra.Command {
	flags := map[string]*string{}
	given := func() map[string]string {
		values := map[string]string{}
		for name, value := range flags {
			values[name] = *value
		}
		return values
	}
	serve := func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(given(), getenv)
		if err != nil {
			return err
		}
		return runServe(cmd.Context(), cfg, getenv, stderr)
	}
	root := &cobra.Command{
		Use: "llm-queue-proxy", Short: "An OpenAI-compatible sidecar that queues instead of failing with 429",
		Args: noArgs, RunE: serve, SilenceUsage: true, SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%s: %w; see --help", cmd.CommandPath(), err)}
	})
	for _, s := range config.Settings() {
		if s.Secret {
			continue // a command line is visible to every user of the machine
		}
		name := strings.ToLower(strings.ReplaceAll(s.Name, "_", "-"))
		flags[s.Name] = root.PersistentFlags().String(name, "", s.Doc)
		if words := s.Words(); words != nil {
			_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	configure := &cobra.Command{
		Use: "config", Short: "Check or show the settings", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }, // without it an unknown word would pass for help
	}
	configure.AddCommand(
		&cobra.Command{
			Use: "check", Short: "Say what is wrong with the settings", Args: noArgs,
			RunE: func(*cobra.Command, []string) error {
				if _, err := config.Load(given(), getenv); err != nil {
					return err
				}
				fmt.Fprintln(stdout, "settings are fine")
				return nil
			},
		},
		&cobra.Command{
			Use: "print", Short: "Show every setting and where it comes from", Args: noArgs,
			RunE: func(*cobra.Command, []string) error { return config.Print(stdout, given(), getenv) },
		},
		&cobra.Command{
			Use: "reference", Short: "Print the reference of all settings, as Markdown", Args: noArgs,
			RunE: func(*cobra.Command, []string) error { return config.WriteReference(stdout) },
		},
	)
	live := false
	health := &cobra.Command{
		Use: "healthcheck", Short: "Exit 0 if the sidecar of these settings is ready", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := config.Read(given(), getenv) // wrong settings have kept the sidecar from starting
			path := "/readyz"
			if live {
				path = "/livez"
			}
			return ask(cmd.Context(), cfg, cfg.ListenAddr, path, nil)
		},
	}
	health.Flags().BoolVar(&live, "live", false, "whether it answers at all, ready or not: for a probe that restarts it")
	asJSON := false
	versions := &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return printVersion(stdout, asJSON) },
	}
	versions.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	root.Version = version().Version
	root.SetVersionTemplate(version().String() + "\n")
	root.AddCommand(
		configure,
		&cobra.Command{Use: "serve", Short: "Serve (the default)", Args: noArgs, RunE: serve},
		&cobra.Command{
			Use: "demo", Short: "See it work, without a key or a network", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), stdout) },
		},
		health,
		versions,
		&cobra.Command{
			Use: "queue", Short: "Show the queue of a running sidecar", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg := config.Read(given(), getenv)
				return printQueue(cmd.Context(), stdout, cfg)
			},
		},
		usageCommand(func() *config.Config { return config.Read(given(), getenv) }, stdout),
		pricesCommand(stdout, stderr),
	)
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{fmt.Errorf("%s: unknown command %q; see --help", cmd.CommandPath(), args[0])}
}

// versionInfo is what version --json prints.
type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes
}

func version() versionInfo {
	v := versionInfo{Version: "(unknown)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func printVersion(stdout io.Writer, asJSON bool) error {
	v := version()
	if asJSON {
		return json.NewEncoder(stdout).Encode(v)
	}
	_, err := fmt.Fprintln(stdout, v)
	return err
}

func (v versionInfo) String() string {
	return fmt.Sprint("llm-queue-proxy ", v.Version, " ", v.Go, " ", v.Platform)
}

// ask gets JSON from the sidecar that listens on address.
func ask(ctx context.Context, cfg *config.Config, address, path string, into any) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("ask the sidecar: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := "http://" + net.JoinHostPort(host, port) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask the sidecar: %w", err)
	}
	if keys := append(slices.Clip(cfg.AdminKeys), cfg.ClientKeys...); len(keys) > 0 { // an admin sees more
		req.Header.Set("Authorization", "Bearer "+string(keys[0].Key))
	}
	if len(cfg.AllowedHosts) > 0 {
		req.Host = cfg.AllowedHosts[0]
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no sidecar answers (PORT, LISTEN_ADDR and ADMIN_ADDR say where to ask): %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s%s", url, resp.Status, reason(resp.Body))
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// reason is what an answer of the sidecar says is wrong, behind a colon.
func reason(body io.Reader) string {
	var answer struct {
		Error  struct{ Message string }
		Status string // of the health routes
	}
	if err := json.NewDecoder(io.LimitReader(body, 64<<10)).Decode(&answer); err != nil {
		return ""
	}
	if text := answer.Error.Message + answer.Status; text != "" {
		return ": " + text
	}
	return ""
}

// stateOf says in words what keeps a group from sending, besides its limits.
func stateOf(g admin.QueueGroup) string {
	var words []string
	if g.PausedUntil != nil {
		words = append(words, "paused until "+*g.PausedUntil)
	}
	if g.HalfOpen {
		words = append(words, "half-open: the provider refuses, and is probed")
	}
	if len(words) == 0 {
		return "open"
	}
	return strings.Join(words, "; ")
}

func printQueue(ctx context.Context, stdout io.Writer, cfg *config.Config) error {
	var status admin.QueueStatus
	if err := ask(ctx, cfg, cfg.OperatorsAddr(), "/queue/status", &status); err != nil {
		return err
	}
	out := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(out, "%d waiting, %d in flight\n", status.Waiting, status.InFlight)
	fmt.Fprintln(out, "\nGROUP\tWAITING\tIN FLIGHT\tSTATE")
	for i, g := range status.Groups {
		if g.Name == "" {
			g.Name = "(all models)"
			status.Groups[i].Name = g.Name
		}
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\n", g.Name, g.Waiting, g.InFlight, stateOf(g))
	}
	fmt.Fprintln(out, "\nGROUP\tLIMIT\tLEVEL\tOF\tSOURCE")
	for _, g := range status.Groups {
		for _, l := range g.Limits {
			fmt.Fprintf(out, "%s\t%s\t%.0f\t%d\t%s\n", g.Name, l.Name, l.Level, l.Limit, l.Source)
		}
	}
	fmt.Fprintln(out, "\nPOSITION\tCLIENT\tSESSION\tGROUP\tWAITING\tWEIGHT")
	for _, q := range status.Sessions {
		fmt.Fprintf(out, "%d\t%s\t%s\t%s\t%d\t%g\n", q.Position, q.Client, q.SessionID, q.Group, q.Waiting, q.Weight)
	}
	return out.Flush()
}
