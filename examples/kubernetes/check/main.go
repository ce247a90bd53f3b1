// Check decodes Kubernetes manifests as strictly as the API server does with
// fieldValidation=Strict: an unknown field, a wrong case or a duplicate is an
// error. It also checks what a native sidecar needs and the types cannot say.
//
//	go run . ../deployment.yaml ../job.yaml
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: check FILE...")
		os.Exit(2)
	}
	failed := false
	for _, name := range os.Args[1:] {
		data, err := os.ReadFile(name)
		var kinds []string
		if err == nil {
			kinds, err = check(data)
		}
		if err != nil {
			failed = true
			fmt.Printf("%s: %v\n", name, err)
			continue
		}
		fmt.Printf("%s: %v\n", name, kinds)
	}
	if failed {
		os.Exit(1)
	}
}

// check decodes every document and returns their kinds.
func check(data []byte) (kinds []string, err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var faults []error
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return kinds, err
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		kinds = append(kinds, kind.Kind)
		switch o := object.(type) {
		case *corev1.Secret:
			faults = append(faults, errors.New("a Secret: applying the file would replace the key that is there"))
		case *appsv1.Deployment:
			faults = append(faults, sidecar(o.Spec.Template.Spec)...)
		case *batchv1.Job:
			faults = append(faults, sidecar(o.Spec.Template.Spec)...)
		}
	}
	if len(kinds) == 0 && len(faults) == 0 {
		faults = append(faults, errors.New("no object"))
	}
	return kinds, errors.Join(faults...)
}

// sidecar checks that a pod has a native sidecar that others can wait for.
func sidecar(pod corev1.PodSpec) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	if s := pod.SecurityContext; s == nil || !is(s.RunAsNonRoot, true) || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		fault("the pod may run as root, or call what it likes")
	}
	if !is(pod.AutomountServiceAccountToken, false) {
		fault("the pod gets a token of the cluster's API")
	}
	found := false
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				fault("%s: volume %q is not there", c.Name, m.Name)
			}
			if m.SubPath != "" {
				fault("%s: %s: a subPath does not follow a rotated secret", c.Name, m.Name)
			}
		}
		s := c.SecurityContext
		if s == nil {
			s = &corev1.SecurityContext{}
		}
		if !is(s.ReadOnlyRootFilesystem, true) {
			fault("%s: its root can be written", c.Name)
		}
		if !is(s.AllowPrivilegeEscalation, false) || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			fault("%s: it has capabilities, or can gain them", c.Name)
		}
	}
	for _, c := range pod.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		found = true
		if c.StartupProbe == nil {
			fault("%s: without a startup probe the others do not wait for it", c.Name)
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if probe != nil && probe.Exec == nil {
				fault("%s: a probe that is no command cannot reach loopback", c.Name)
			}
		}
	}
	if !found {
		fault("no init container with restartPolicy: Always")
	}
	return faults
}

// is reports whether a field is set, and to want.
func is(field *bool, want bool) bool { return field != nil && *field == want }
