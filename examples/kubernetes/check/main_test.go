package main

import (
	"os"
	"strings"
	"testing"
)

func TestCheck_AcceptsTheManifests(t *testing.T) {
	for _, name := range []string{"../deployment.yaml", "../job.yaml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if kinds, err := check(data); err != nil || len(kinds) == 0 {
			t.Errorf("%s: %v: %v", name, kinds, err)
		}
	}
}

func TestCheck_RefusesSlips(t *testing.T) {
	for _, name := range []string{"../deployment.yaml", "../job.yaml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, slip := range []struct{ from, to, want string }{
			{"startupProbe:", "startUpProbe:", "unknown field"},
			{"periodSeconds:", "periodSecs:", "unknown field"},
			{"restartPolicy: Always", "restartPolicy: OnFailure", "restartPolicy: Always"},
			{"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "root can be written"},
			{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "can gain them"},
			{"drop: [ALL]", "drop: [NET_RAW]", "has capabilities"},
			{"runAsNonRoot: true", "runAsNonRoot: false", "run as root"},
			{"type: RuntimeDefault", "type: Unconfined", "run as root"},
			{"automountServiceAccountToken: false", "automountServiceAccountToken: true", "a token"},
			{"apiVersion: ", "apiVersion: v1\nkind: Secret\nmetadata: {name: openai}\nstringData: {api-key: x}\n---\napiVersion: ", "a Secret"},
			{"- name: data\n          ", "- name: date\n          ", `volume "date"`},
			{"failureThreshold: 30", "failureThreshold: 30\n            failureThreshold: 31", "already set"},
			{"kind: ", "kind: X", "no kind"},
			{"            exec:\n              command: [\"/llm-queue-proxy\", \"healthcheck\"]\n", "            httpGet: {path: /readyz, port: 8080}\n", "loopback"},
		} {
			text := string(data)
			broken := strings.Replace(text, slip.from, slip.to, 1)
			if broken == text {
				t.Errorf("%s has no %q", name, slip.from)
			}
			if _, err := check([]byte(broken)); err == nil || !strings.Contains(err.Error(), slip.want) {
				t.Errorf("%s with %q: got %v, want %q", name, slip.to, err, slip.want)
			}
		}
	}
}
