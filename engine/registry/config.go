package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Config says how registries are reached.
type Config struct {
	// Insecure are hosts, HOST:PORT or networks in CIDR notation, whose
	// certificate is not verified and that may speak plain HTTP.
	Insecure []string `json:"insecure-registries"`
	// Mirrors are URLs to ask first, by registry ("docker.io").
	Mirrors map[string][]string `json:"registry-mirrors"`
	// CertDirs contain a directory HOST[:PORT] for each registry with
	// certificates of its own.
	CertDirs []string `json:"-"`
}

// ConfigDir is where stack's settings are.
func ConfigDir() string {
	if dir := os.Getenv("STACK_CONFIG"); dir != "" {
		return dir
	}
	return "/etc/stack"
}

// LoadConfig reads the settings of the package comment.
func LoadConfig() (Config, error) {
	dir := ConfigDir()
	var c Config
	if err := readJSON(filepath.Join(dir, "registries.json"), &c); err != nil {
		return c, err
	}
	var daemon struct {
		Insecure []string `json:"insecure-registries"`
		Mirrors  []string `json:"registry-mirrors"`
	}
	if err := readJSON("/etc/docker/daemon.json", &daemon); err != nil {
		return c, err
	}
	c.Insecure = append(c.Insecure, daemon.Insecure...)
	if len(daemon.Mirrors) > 0 {
		if c.Mirrors == nil {
			c.Mirrors = map[string][]string{}
		}
		// Docker knows mirrors of its own hub only.
		c.Mirrors[hub] = append(c.Mirrors[hub], daemon.Mirrors...)
	}
	c.CertDirs = []string{filepath.Join(dir, "certs.d"), "/etc/docker/certs.d"}
	return c, nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// IsInsecure tells whether a registry was named as insecure.
func (c Config) IsInsecure(host string) bool {
	name, _ := splitPort(host)
	if slices.Contains(c.Insecure, host) || slices.Contains(c.Insecure, name) {
		return true
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return ip != nil && slices.ContainsFunc(c.Insecure, func(s string) bool {
		_, n, err := net.ParseCIDR(s)
		return err == nil && n.Contains(ip)
	})
}

// loopback tells whether host is this machine, by its name alone.
func loopback(host string) bool {
	name, _ := splitPort(host)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return ip != nil && ip.IsLoopback()
}

// splitPort splits HOST[:PORT].
func splitPort(host string) (name, port string) {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return name, port
	}
	return host, ""
}
