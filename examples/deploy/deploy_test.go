// Package deploy holds no code but this: it checks, without a container engine,
// that what is beside it is well-formed and fits together.
package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	composetypes "github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

func read(t *testing.T, elements ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func strict(t *testing.T, data []byte, into any) {
	t.Helper()
	err := yaml.UnmarshalStrict(data, into)
	if err != nil {
		t.Fatalf("decoding into %T: %v in\n%s", into, err, data)
	}
}

// TestDockerfile: BuildKit's parser takes it, and its linter finds nothing.
func TestDockerfile(t *testing.T) {
	data := read(t, "Dockerfile")
	result, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		t.Errorf("got a warning of the parser: %s", w.Short)
	}
	lint := linter.New(&linter.Config{
		Warn: func(rule, description, _, message string, _ []parser.Range) {
			t.Errorf("got a warning of the linter: %s: %s (%s)", rule, message, description)
		},
	})
	stages, _, err := instructions.Parse(result.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	caddy := caddyVersion(t)
	want := []string{"caddy:" + caddy + "-builder", "caddy:" + caddy}
	var got []string
	for _, stage := range stages {
		got = append(got, stage.BaseName)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got the images %v; want %v as in go.mod", got, want)
	}
	if !strings.Contains(string(data), "xcaddy build v"+caddy+" ") {
		t.Errorf("got no xcaddy build v%s; want the version of go.mod", caddy)
	}
}

// caddyVersion reads the version of Caddy from the plugin's go.mod.
func caddyVersion(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(string(read(t, "..", "..", "go.mod"))) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "github.com/caddyserver/caddy/v2" {
			return strings.TrimPrefix(fields[1], "v")
		}
	}
	t.Fatal("got no version of Caddy in go.mod; want one")
	return ""
}

// manifests are what kustomization.yaml names, decoded strictly.
type manifests struct {
	kustomization types.Kustomization
	namespace     corev1.Namespace
	set           appsv1.StatefulSet
	services      []corev1.Service
	policy        networkingv1.NetworkPolicy
}

func load(t *testing.T) *manifests {
	t.Helper()
	m := &manifests{}
	strict(t, read(t, "kubernetes", "kustomization.yaml"), &m.kustomization)
	for _, name := range m.kustomization.Resources {
		for document := range strings.SplitSeq(string(read(t, "kubernetes", name)), "\n---\n") {
			var kind struct {
				Kind string `json:"kind"`
			}
			err := yaml.Unmarshal([]byte(document), &kind)
			if err != nil {
				t.Fatal(err)
			}
			switch kind.Kind {
			case "Namespace":
				strict(t, []byte(document), &m.namespace)
			case "StatefulSet":
				strict(t, []byte(document), &m.set)
			case "Service":
				m.services = append(m.services, corev1.Service{})
				strict(t, []byte(document), &m.services[len(m.services)-1])
			case "NetworkPolicy":
				strict(t, []byte(document), &m.policy)
			default:
				t.Fatalf("%s: got kind %q; want one that this test knows", name, kind.Kind)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join("kubernetes", "*.yaml"))
	if err != nil || len(files) != len(m.kustomization.Resources)+1 {
		t.Fatalf("got %d files, %v; want kustomization.yaml and the %d that it names", len(files), err, len(m.kustomization.Resources))
	}
	return m
}

// TestStatefulSet: one replica, its ledger on a volume of its own, and nothing
// that the restricted Pod security standard refuses.
func TestStatefulSet(t *testing.T) {
	m := load(t)
	if m.set.Spec.Replicas == nil || *m.set.Spec.Replicas != 1 {
		t.Error("got another number of replicas; want 1: replicas do not share claims")
	}
	pod := m.set.Spec.Template.Spec
	c := pod.Containers[0]
	mounts := map[string]string{}
	for _, mount := range c.VolumeMounts {
		mounts[mount.Name] = mount.MountPath
	}
	claim := m.set.Spec.VolumeClaimTemplates[0]
	caddyfile := string(read(t, "kubernetes", "Caddyfile"))
	if path := mounts[claim.Name]; path == "" || !strings.Contains(caddyfile, "ledger "+path+"/") {
		t.Errorf("the claim %s is mounted at %q; want the ledger of the Caddyfile there", claim.Name, path)
	}
	volumes := []string{claim.Name}
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for name := range mounts {
		if !slices.Contains(volumes, name) {
			t.Errorf("got a mount of %s; want a volume for it", name)
		}
	}
	if len(mounts) != len(volumes) {
		t.Errorf("got %d mounts of %d volumes; want all mounted", len(mounts), len(volumes))
	}
	for _, v := range pod.Volumes {
		if v.ConfigMap != nil && v.ConfigMap.Name != m.kustomization.ConfigMapGenerator[0].Name {
			t.Errorf("got the ConfigMap %s; want the generated one", v.ConfigMap.Name)
		}
	}
	security := c.SecurityContext
	if !*pod.SecurityContext.RunAsNonRoot || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem ||
		!slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("got %+v and %+v; want what the restricted standard asks for", pod.SecurityContext, security)
	}
	if user := fmt.Sprintf("USER %d\n", *pod.SecurityContext.RunAsUser); !strings.Contains(string(read(t, "Dockerfile")), user) {
		t.Errorf("got no %q in the Dockerfile; want the user of the Pod", user)
	}
	if !slices.ContainsFunc(m.kustomization.Images, func(i types.Image) bool { return i.Name == c.Image && i.NewTag != "" }) {
		t.Errorf("got the image %s untagged; want kustomization.yaml to pin it", c.Image)
	}
	used := 0
	for _, env := range c.Env {
		if env.Name == "CADDY_ADMIN" { // for commands in the Pod
			if !strings.Contains(caddyfile, "\tadmin "+env.Value+"\n") {
				t.Errorf("got CADDY_ADMIN %s; want the admin endpoint of the Caddyfile", env.Value)
			}
			continue
		}
		used++
		if !strings.Contains(caddyfile, "{env."+env.Name+"}") {
			t.Errorf("got %s, which the Caddyfile does not use", env.Name)
		}
	}
	if got, want := strings.Count(caddyfile, "{env."), used; got != want {
		t.Errorf("got %d placeholders in the Caddyfile; want the %d variables that are set", got, want)
	}
}

// TestPortsAndProbes: Services, probes and the NetworkPolicy name ports of the
// container, and the Caddyfile listens there.
func TestPortsAndProbes(t *testing.T) {
	m := load(t)
	c := m.set.Spec.Template.Spec.Containers[0]
	caddyfile := string(read(t, "kubernetes", "Caddyfile"))
	ports := map[string]bool{}
	for _, p := range c.Ports {
		ports[p.Name] = true
		if !strings.Contains(caddyfile, fmt.Sprintf("://:%d {", p.ContainerPort)) {
			t.Errorf("port %s: got no site on %d; want one", p.Name, p.ContainerPort)
		}
	}
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if !ports[probe.HTTPGet.Port.String()] || !strings.Contains(caddyfile, "handle "+probe.HTTPGet.Path+" {") {
			t.Errorf("%s probe: got %s on %s; want a path and a port that the Caddyfile has", name, probe.HTTPGet.Path, probe.HTTPGet.Port.String())
		}
	}
	if c.ReadinessProbe.HTTPGet.Path == c.LivenessProbe.HTTPGet.Path {
		t.Error("got one path for both probes; want a Pod that is not ready left alive")
	}
	if len(m.services) != 3 {
		t.Fatalf("got %d Services; want 3", len(m.services))
	}
	for _, s := range m.services {
		for _, p := range s.Spec.Ports {
			if !ports[p.TargetPort.String()] {
				t.Errorf("Service %s: got the port %s; want one of the container", s.Name, p.TargetPort.String())
			}
		}
		for key, value := range s.Spec.Selector {
			if m.set.Spec.Template.Labels[key] != value {
				t.Errorf("Service %s: got the selector %s=%s; want labels of the Pod", s.Name, key, value)
			}
		}
	}
	for _, rule := range m.policy.Spec.Ingress {
		for _, p := range rule.Ports {
			if !ports[p.Port.String()] {
				t.Errorf("NetworkPolicy: got the port %s; want one of the container", p.Port.String())
			}
		}
	}
}

// TestSystemd: the drop-in has sections and keys that systemd knows.
func TestSystemd(t *testing.T) {
	known := []string{"RuntimeDirectory", "RuntimeDirectoryMode", "EnvironmentFile", "UMask", "Restart", "RestartSec", "TimeoutStopSec"}
	section := ""
	for line := range strings.Lines(string(read(t, "systemd", "capif.conf"))) {
		line = strings.TrimSpace(line)
		switch key, _, ok := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = line
		case !ok || section != "[Service]" || !slices.Contains(known, key):
			t.Errorf("got %q in %s; want a setting of [Service] that was checked", line, section)
		}
	}
}

// TestCompose: compose-go takes the file strictly, and the AEFs start with what
// the quickstart writes.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"compose.yaml"}, cli.WithoutEnvironmentResolution)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cast, ok := project.Services["cast"]
	if !ok || !slices.Contains(cast.Command, "-external") {
		t.Fatalf("got %v; want the quickstart with -external", cast.Command)
	}
	shared := cast.Command[slices.Index(cast.Command, "-external")+1]
	for _, name := range []string{"aef-a", "aef-b"} {
		s := project.Services[name]
		if s.NetworkMode != "service:cast" || s.Build == nil || filepath.Base(s.Build.Dockerfile) != "Dockerfile" {
			t.Errorf("%s: got %+v; want the image of the Dockerfile in the network of cast", name, s)
		}
		if file := shared + "/capif-quickstart/" + name + "/Caddyfile"; !strings.Contains(strings.Join(s.Command, " "), file) {
			t.Errorf("%s: got %v; want %s started", name, s.Command, file)
		}
		if !slices.ContainsFunc(s.Volumes, func(v composetypes.ServiceVolumeConfig) bool { return v.Source == "cast" && v.Target == shared }) {
			t.Errorf("%s: got %v; want the volume of cast at %s", name, s.Volumes, shared)
		}
	}
	if user := "USER " + cast.User + "\n"; !strings.Contains(string(read(t, "Dockerfile")), user) {
		t.Errorf("got no %q in the Dockerfile; want the AEFs to run as the user of cast", user)
	}
}
