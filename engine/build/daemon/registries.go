package daemon

import (
	"net/url"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/util/resolver/config"

	"github.com/stack-run/stack/engine/registry"
)

// registryHosts reaches registries the way that the engine does. The settings
// are read each time: the daemon outlives them.
func registryHosts(host string) ([]docker.RegistryHost, error) {
	c, err := registry.LoadConfig()
	if err != nil {
		return nil, err
	}
	return resolver.NewRegistryConfig(registryConfig(c, host, exists))(host)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// registryConfig is what the engine's settings mean to BuildKit, for a registry
// and its mirrors.
func registryConfig(c registry.Config, host string, exists func(string) bool) map[string]config.RegistryConfig {
	own := reach(c, host, exists)
	all := map[string]config.RegistryConfig{}
	for _, m := range c.Mirrors[host] {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" { // HOST/PATH
			own.Mirrors = append(own.Mirrors, m)
			continue
		}
		r := reach(c, u.Host, exists)
		plain := u.Scheme == "http"
		r.PlainHTTP = &plain
		all[u.Host] = r
		own.Mirrors = append(own.Mirrors, u.Host+u.Path)
	}
	all[host] = own
	return all
}

// reach is how one server is reached.
func reach(c registry.Config, host string, exists func(string) bool) config.RegistryConfig {
	var r config.RegistryConfig
	yes, no := true, false
	for _, dir := range c.CertDirs {
		if dir := filepath.Join(dir, host); exists(dir) {
			r.TLSConfigDir = append(r.TLSConfigDir, dir)
			r.PlainHTTP = &no // also on loopback
		}
	}
	if c.IsInsecure(host) {
		r.Insecure, r.PlainHTTP = &yes, &yes // TLS is tried first
	}
	return r
}
