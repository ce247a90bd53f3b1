// Package compose reads compose.yaml as today's Docker Compose does, by its own
// library. The engine that runs the file in CI is an older one, which does not
// know all of it.
package compose

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

func load(t *testing.T, file string, env ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnv(env), cli.WithName("check"), cli.WithDefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(context.Background())
}

func TestCompose_Default(t *testing.T) {
	p, err := load(t, "../../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if names := p.ServiceNames(); !slices.Equal(names, []string{"app", "sidecar"}) {
		t.Errorf("services %v", names)
	}
	sidecar := p.Services["sidecar"]
	if got := sidecar.Environment["REPOSITORY_TYPE"]; got == nil || *got != "sqlite" {
		t.Errorf("REPOSITORY_TYPE is %v", got)
	}
	if on := p.Services["app"].DependsOn["sidecar"]; on.Condition != types.ServiceConditionHealthy || !on.Required {
		t.Errorf("the app depends on %+v", on)
	}
	if !sidecar.ReadOnly || sidecar.Privileged || !slices.Equal(sidecar.CapDrop, []string{"ALL"}) || sidecar.StopGracePeriod.String() != "30s" {
		t.Errorf("the sidecar is not locked down: %+v", sidecar)
	}
	for _, port := range sidecar.Ports {
		if port.HostIP != "127.0.0.1" {
			t.Errorf("port %s is open to %q", port.Published, port.HostIP)
		}
	}
}

// TestCompose_Postgres: the three lines of .env that the file's head tells of.
func TestCompose_Postgres(t *testing.T) {
	p, err := load(t, "../../compose.yaml", "COMPOSE_PROFILES=postgres", "REPOSITORY_TYPE=postgres", "POSTGRES_PASSWORD=pw")
	if err != nil {
		t.Fatal(err)
	}
	if names := p.ServiceNames(); !slices.Equal(names, []string{"app", "postgres", "sidecar"}) {
		t.Errorf("services %v", names)
	}
	sidecar := p.Services["sidecar"]
	if on := sidecar.DependsOn["postgres"]; on.Condition != types.ServiceConditionHealthy {
		t.Errorf("the sidecar depends on %+v", on)
	}
	if dsn := *sidecar.Environment["POSTGRES_DSN"]; *sidecar.Environment["REPOSITORY_TYPE"] != "postgres" || !strings.HasPrefix(dsn, "postgres://sidecar:pw@postgres:5432/usage") {
		t.Errorf("environment %v", sidecar.Environment)
	}
	if p.Services["postgres"].HealthCheck == nil || len(p.Services["postgres"].Ports) > 0 {
		t.Error("Postgres has no health check, or is open to others")
	}
}

func TestCompose_FindsSlips(t *testing.T) {
	text, err := os.ReadFile("../../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, slip := range [][2]string{
		{"read_only:", "readonly:"},
		{"condition: service_healthy", "condition: service_health"},
		{"stop_grace_period: 30s", "stop_grace_period: 30"},
		{"sidecar: {condition: service_healthy}", "sidecart: {condition: service_healthy}"},
		{`volumes: ["sessions:/data"]`, `volumes: ["session:/data"]`},
	} {
		broken := strings.Replace(string(text), slip[0], slip[1], 1)
		if broken == string(text) {
			t.Fatalf("there is no %q", slip[0])
		}
		file := filepath.Join(t.TempDir(), "compose.yaml")
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(t, file); err == nil {
			t.Errorf("%q is not found", slip[1])
		}
	}
}
