package client

import (
	"context"
	"fmt"
	"os"

	"github.com/docker/cli/cli/config"
	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"

	"github.com/stack-run/stack/engine/build"
	"github.com/stack-run/stack/engine/build/confine"
	"github.com/stack-run/stack/engine/build/request"
)

// session offers the daemon what it may ask for while it builds.
func (s *solve) session(_ context.Context, t *request.Target, around surroundings) error {
	conf, err := config.Load(dockerConfigDir(around.config))
	if err != nil {
		return fmt.Errorf("cannot read Docker's configuration file: %w", err)
	}
	s.options.Session = append(s.options.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(conf),
	}))
	// The proxies of Docker's configuration are arguments that leave no trace in
	// the image; what is said on the command line goes before.
	for k, v := range conf.ParseProxyConfig("default", nil) {
		key := "build-arg:" + k
		if _, given := s.options.FrontendAttrs[key]; !given && v != nil {
			s.options.FrontendAttrs[key] = *v
		}
	}
	store, err := readSecrets(t.Secrets)
	if err != nil {
		return err
	}
	s.options.Session = append(s.options.Session, secretsprovider.FromMap(store), confine.Confinement{UserNS: t.UserNS, Project: t.Project})
	if len(t.SSH) > 0 {
		var agents []sshprovider.AgentConfig
		for _, a := range t.SSH {
			agents = append(agents, sshprovider.AgentConfig{ID: a.ID, Paths: a.Paths})
		}
		ssh, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return fmt.Errorf("cannot offer the SSH agent to the build: %w; start an agent (SSH_AUTH_SOCK) or name a socket or key", err)
		}
		s.options.Session = append(s.options.Session, ssh)
	}
	return nil
}

func dockerConfigDir(dir string) string {
	if dir != "" {
		return dir
	}
	return config.Dir()
}

// readSecrets reads the secrets before the build begins, so that one that cannot
// be read fails at once.
func readSecrets(list []request.Secret) (map[string][]byte, error) {
	store := map[string][]byte{}
	for _, s := range list {
		switch {
		case s.Value != nil:
			store[s.ID] = []byte(*s.Value)
		case s.Env != "":
			value, set := os.LookupEnv(s.Env)
			if !set {
				return nil, fmt.Errorf("the secret %s is the environment variable %s, which is not set", s.ID, s.Env)
			}
			store[s.ID] = []byte(value)
		default:
			data, err := os.ReadFile(s.File)
			if err != nil {
				return nil, missing("the file of the secret "+s.ID+",", s.File, err)
			}
			store[s.ID] = data
		}
		if n := len(store[s.ID]); n > secretsprovider.MaxSecretSize {
			return nil, fmt.Errorf("the secret %s has %d bytes; at most %d are possible", s.ID, n, secretsprovider.MaxSecretSize)
		}
	}
	return store, nil
}

// hostGateway asks the daemon for the address, if a target needs it.
func hostGateway(ctx context.Context, conn *bk.Client, targets []request.Target) (string, error) {
	needed := false
	for _, t := range targets {
		for _, h := range t.ExtraHosts {
			needed = needed || h.Address == "host-gateway"
		}
	}
	if !needed {
		return "", nil
	}
	workers, err := conn.ListWorkers(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot ask the builder for its workers: %w", err)
	}
	for _, w := range workers {
		if a := w.Labels[build.HostGatewayLabel]; a != "" {
			return a, nil
		}
	}
	return "", nil
}
