// Package kubernetes checks deploy/kubernetes.yml with the types of Kubernetes itself. It is a module of its own, so that the registry
// does not depend on them.
package kubernetes

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// manifest is what the file has.
type manifest struct {
	deployment apps.Deployment
	claim      core.PersistentVolumeClaim
	service    core.Service
}

// read decodes the file, in which no key may be there twice, or be none of Kubernetes'.
func read(t *testing.T) (m manifest) {
	t.Helper()
	content, err := os.ReadFile("../../deploy/kubernetes.yml")
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	targets := map[string]any{"apps/v1 Deployment": &m.deployment, "v1 PersistentVolumeClaim": &m.claim, "v1 Service": &m.service}
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var kind struct{ APIVersion, Kind string }
		if err := errors.Join(err, strict.Unmarshal(document, &kind)); err != nil {
			t.Fatal(err)
		}
		name := kind.APIVersion + " " + kind.Kind
		target := targets[name]
		if target == nil {
			t.Fatalf("%s is there twice, or nothing looks at it", name)
		}
		delete(targets, name)
		if err := strict.UnmarshalStrict(document, target); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(targets) > 0 {
		t.Fatalf("not there are %v", targets)
	}
	return m
}

// TestManifest looks at what the decoder can't: that the parts fit together, and what the guide promises.
func TestManifest(t *testing.T) {
	m := read(t)
	pod := m.deployment.Spec.Template
	if got := m.deployment.Spec.Strategy.Type; got != apps.RecreateDeploymentStrategyType {
		t.Errorf("the strategy is %s", got)
	}
	for _, selector := range []map[string]string{m.deployment.Spec.Selector.MatchLabels, m.service.Spec.Selector} {
		if len(selector) == 0 || !maps.Equal(selector, pod.Labels) {
			t.Errorf("%v selects no pod with %v", selector, pod.Labels)
		}
	}
	if len(pod.Spec.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Spec.Containers))
	}
	c := pod.Spec.Containers[0]
	if got := m.service.Spec.Ports[0].TargetPort.StrVal; got != c.Ports[0].Name {
		t.Errorf("the service goes to the port %s", got)
	}
	claims := 0
	for _, v := range pod.Spec.Volumes {
		if !slices.ContainsFunc(c.VolumeMounts, func(mount core.VolumeMount) bool { return mount.Name == v.Name }) {
			t.Errorf("nothing mounts %s", v.Name)
		}
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == m.claim.Name {
			claims++
		}
	}
	if claims != 1 || len(c.VolumeMounts) != len(pod.Spec.Volumes) {
		t.Errorf("mounts %v of volumes %v", c.VolumeMounts, pod.Spec.Volumes)
	}
	checkProbes(t, c)
	checkHardened(t, pod.Spec, c)
}

// checkProbes wants a start that takes long to be alive, and not to get requests.
func checkProbes(t *testing.T, c core.Container) {
	t.Helper()
	for _, probe := range []*core.Probe{c.StartupProbe, c.LivenessProbe} {
		if probe == nil || probe.Exec == nil || !slices.Equal(probe.Exec.Command, []string{"registry", "healthcheck"}) {
			t.Errorf("it is alive by %v", probe)
		}
	}
	ready := c.ReadinessProbe
	if ready == nil || ready.HTTPGet == nil || ready.HTTPGet.Path != "/health" || ready.HTTPGet.Scheme != core.URISchemeHTTPS || ready.HTTPGet.Port.StrVal != c.Ports[0].Name {
		t.Errorf("it is ready by %v", ready)
	}
}

func checkHardened(t *testing.T, pod core.PodSpec, c core.Container) {
	t.Helper()
	of, own := pod.SecurityContext, c.SecurityContext
	if of == nil || of.RunAsNonRoot == nil || !*of.RunAsNonRoot || of.RunAsUser == nil || *of.RunAsUser != 65532 || of.SeccompProfile == nil {
		t.Errorf("the pod is %v", of)
	}
	if own == nil || own.ReadOnlyRootFilesystem == nil || !*own.ReadOnlyRootFilesystem || own.AllowPrivilegeEscalation == nil || *own.AllowPrivilegeEscalation ||
		own.Capabilities == nil || !slices.Equal(own.Capabilities.Drop, []core.Capability{"ALL"}) {
		t.Errorf("the container is %v", own)
	}
}
