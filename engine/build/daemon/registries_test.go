package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/util/resolver/config"

	"github.com/stack-run/stack/engine/registry"
)

func TestRegistryConfig(t *testing.T) {
	yes, no := true, false
	c := registry.Config{
		Insecure: []string{"lab.lan:5000", "10.0.0.0/8"},
		Mirrors:  map[string][]string{"docker.io": {"https://mirror.lan/hub", "http://127.0.0.1:5000", "plain.lan"}},
		CertDirs: []string{"/etc/stack/certs.d", "/etc/docker/certs.d"},
	}
	exists := func(path string) bool { return path == "/etc/docker/certs.d/private.lan" }
	for host, want := range map[string]map[string]config.RegistryConfig{
		"other.lan":    {"other.lan": {}},
		"lab.lan:5000": {"lab.lan:5000": {Insecure: &yes, PlainHTTP: &yes}},
		"10.1.2.3":     {"10.1.2.3": {Insecure: &yes, PlainHTTP: &yes}},
		"private.lan":  {"private.lan": {TLSConfigDir: []string{"/etc/docker/certs.d/private.lan"}, PlainHTTP: &no}},
		"docker.io": {
			"docker.io":      {Mirrors: []string{"mirror.lan/hub", "127.0.0.1:5000", "plain.lan"}},
			"mirror.lan":     {PlainHTTP: &no},
			"127.0.0.1:5000": {PlainHTTP: &yes},
		},
	} {
		if diff := cmp.Diff(want, registryConfig(c, host, exists)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", host, diff)
		}
	}
}
