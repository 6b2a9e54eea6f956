package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stack-run/stack/internal/durable"
)

// Credential is how one logs in. With IdentityToken, Username and Password are
// not used.
type Credential struct {
	Username, Password, IdentityToken string
}

// Credentials are those of Docker's configuration file.
type Credentials struct {
	// Dir is the directory of config.json; "" is $DOCKER_CONFIG or ~/.docker.
	Dir  string
	only *Credential // instead of all others
}

// dockerConfig is what concerns us of config.json; the rest is kept as it is.
type dockerConfig struct {
	Auths       map[string]authEntry `json:"auths"`
	CredsStore  string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`
}

type authEntry struct {
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
}

// hubKey is the name under which Docker keeps the credentials of its hub.
const hubKey = "https://index.docker.io/v1/"

func credentialKey(registry string) string {
	if registry == hub {
		return hubKey
	}
	return registry
}

// Server is the registry that a user means with a server's name or URL, as
// Docker's login takes it; "" is Docker Hub.
func Server(name string) string {
	if name == "" {
		return hub
	}
	return bareHost(name)
}

// Path is the configuration file.
func (c *Credentials) Path() string {
	dir := c.Dir
	if dir == "" {
		dir = os.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		home, _ := os.UserHomeDir()
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

func (c *Credentials) read() (dockerConfig, map[string]json.RawMessage, error) {
	var conf dockerConfig
	all := map[string]json.RawMessage{}
	data, err := os.ReadFile(c.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return conf, all, nil
	}
	if err == nil && len(bytes.TrimSpace(data)) > 0 {
		err = errors.Join(json.Unmarshal(data, &conf), json.Unmarshal(data, &all))
	}
	if err != nil {
		return conf, nil, fmt.Errorf("cannot read credentials from %s: %w", c.Path(), err)
	}
	return conf, all, nil
}

// Get returns the credentials for a registry; empty ones if there are none.
func (c *Credentials) Get(ctx context.Context, registry string) (Credential, error) {
	if c.only != nil {
		return *c.only, nil
	}
	conf, _, err := c.read()
	if err != nil {
		return Credential{}, err
	}
	if name := conf.helper(registry); name != "" {
		return helperGet(ctx, name, credentialKey(registry))
	}
	for key, a := range conf.Auths {
		if key == credentialKey(registry) || bareHost(key) == registry {
			return a.credential(key)
		}
	}
	return Credential{}, nil
}

// bareHost takes scheme and path off a key of older Docker versions.
func bareHost(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, _, _ := strings.Cut(key, "/")
	if host == "index.docker.io" || host == hubHost {
		return hub
	}
	return host
}

func (d dockerConfig) helper(registry string) string {
	if name, ok := d.CredHelpers[registry]; ok {
		return name
	}
	if name, ok := d.CredHelpers[credentialKey(registry)]; ok {
		return name
	}
	return d.CredsStore
}

func (a authEntry) credential(key string) (Credential, error) {
	cred := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
	if a.Auth == "" {
		return cred, nil
	}
	data, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, ok := strings.Cut(string(data), ":")
	if err != nil || !ok {
		return cred, fmt.Errorf("cannot read the credentials of %s: its \"auth\" is not USER:PASSWORD in base64; log in again", key)
	}
	cred.Username, cred.Password = user, strings.TrimRight(password, "\x00")
	return cred, nil
}

// Store keeps credentials, with a credential helper where one is configured, and
// returns the file that has them unencrypted, "" if none has.
func (c *Credentials) Store(ctx context.Context, registry string, cred Credential) (string, error) {
	conf, all, err := c.read()
	if err != nil {
		return "", err
	}
	key := credentialKey(registry)
	entry := authEntry{IdentityToken: cred.IdentityToken}
	where := c.Path()
	if name := conf.helper(registry); name != "" {
		user, secret := cred.Username, cred.Password
		if cred.IdentityToken != "" {
			user, secret = tokenUser, cred.IdentityToken
		}
		if _, err := helperRun(ctx, name, "store", helperEntry{ServerURL: key, Username: user, Secret: secret}); err != nil {
			return "", err
		}
		entry, where = authEntry{}, ""
	} else if cred.Username != "" {
		entry.Auth = base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password))
	}
	if conf.Auths == nil {
		conf.Auths = map[string]authEntry{}
	}
	conf.Auths[key] = entry
	return where, c.write(all, conf)
}

// Erase forgets the credentials of a registry, and tells whether there were any.
func (c *Credentials) Erase(ctx context.Context, registry string) (bool, error) {
	conf, all, err := c.read()
	if err != nil {
		return false, err
	}
	had := false
	for key := range conf.Auths {
		if key == credentialKey(registry) || bareHost(key) == registry {
			delete(conf.Auths, key)
			had = true
		}
	}
	if name := conf.helper(registry); name != "" {
		_, err := helperRun(ctx, name, "erase", credentialKey(registry))
		had = had || err == nil
	}
	if !had {
		return false, nil
	}
	return true, c.write(all, conf)
}

func (c *Credentials) write(all map[string]json.RawMessage, conf dockerConfig) error {
	auths, err := json.Marshal(conf.Auths)
	if err != nil {
		return err
	}
	all["auths"] = auths
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.Path()), 0o700); err != nil {
		return fmt.Errorf("cannot keep credentials: %w", err)
	}
	path := c.Path()
	// The file may be a link into a directory that is kept elsewhere.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return durable.Write(path, data, 0o600)
}

// tokenUser is the user name with which a helper tells an identity token.
const tokenUser = "<token>"

type helperEntry struct{ ServerURL, Username, Secret string }

// helperRun runs docker-credential-NAME (docker-credential-helpers, README.md).
func helperRun(ctx context.Context, name, verb string, input any) ([]byte, error) {
	program := "docker-credential-" + name
	in, ok := input.(string)
	if !ok {
		data, err := json.Marshal(input)
		if err != nil {
			return nil, err
		}
		in = string(data)
	}
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String() + errs.String())
		if text == "" {
			text = err.Error()
		}
		return nil, fmt.Errorf("cannot use credential helper %s: %s", program, printable(text))
	}
	return out.Bytes(), nil
}

func helperGet(ctx context.Context, name, key string) (Credential, error) {
	out, err := helperRun(ctx, name, "get", key)
	if err != nil {
		if strings.Contains(err.Error(), "credentials not found") {
			return Credential{}, nil
		}
		return Credential{}, err
	}
	var e helperEntry
	if err := json.Unmarshal(out, &e); err != nil {
		return Credential{}, fmt.Errorf("cannot read the answer of docker-credential-%s: %w", name, err)
	}
	if e.Username == tokenUser {
		return Credential{IdentityToken: e.Secret}, nil
	}
	return Credential{Username: e.Username, Password: e.Secret}, nil
}
