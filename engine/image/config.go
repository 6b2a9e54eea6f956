package image

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
)

// Config is an image's config: the OCI image configuration
// (image-spec, config.md) with Docker's additions. Fields that it does not know
// are kept, so that a config made from another one loses nothing.
type Config struct {
	Created      *time.Time      `json:"created,omitempty"`
	Author       string          `json:"author,omitempty"`
	Architecture string          `json:"architecture"`
	Variant      string          `json:"variant,omitempty"`
	OS           string          `json:"os"`
	OSVersion    string          `json:"os.version,omitempty"`
	OSFeatures   []string        `json:"os.features,omitempty"`
	Config       ContainerConfig `json:"config"`
	RootFS       RootFS          `json:"rootfs"`
	History      []History       `json:"history,omitempty"`

	// Extra holds the fields that are not listed above.
	Extra map[string]json.RawMessage `json:"-"`
}

// ContainerConfig is what an image says about the containers made from it.
type ContainerConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"` // "80/tcp"
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"`

	// Docker's additions.
	Healthcheck *Healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`
	StopTimeout *int         `json:"StopTimeout,omitempty"` // seconds

	// Extra holds the fields that are not listed above.
	Extra map[string]json.RawMessage `json:"-"`
}

// Healthcheck is the image's own health check. Zero means inherited or default.
type Healthcheck = container.HealthConfig

// RootFS lists the layers, lowest first.
type RootFS struct {
	Type    string          `json:"type"` // "layers"
	DiffIDs []digest.Digest `json:"diff_ids"`
}

// History is how one step of the image came about. Steps with EmptyLayer have
// no layer.
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Author     string     `json:"author,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"`
}

// UnmarshalJSON reads a config and keeps what it does not know.
func (c *Config) UnmarshalJSON(data []byte) error {
	type plain Config
	if err := json.Unmarshal(data, (*plain)(c)); err != nil {
		return err
	}
	var err error
	c.Extra, err = unknown(data, configFields())
	return err
}

// MarshalJSON writes the config with the fields it did not know.
func (c Config) MarshalJSON() ([]byte, error) {
	type plain Config
	return withExtra(plain(c), c.Extra)
}

// UnmarshalJSON reads a container config and keeps what it does not know.
func (c *ContainerConfig) UnmarshalJSON(data []byte) error {
	type plain ContainerConfig
	if err := json.Unmarshal(data, (*plain)(c)); err != nil {
		return err
	}
	var err error
	c.Extra, err = unknown(data, containerFields())
	return err
}

// MarshalJSON writes the container config with the fields it did not know.
func (c ContainerConfig) MarshalJSON() ([]byte, error) {
	type plain ContainerConfig
	return withExtra(plain(c), c.Extra)
}

var (
	configFields    = sync.OnceValue(func() map[string]bool { return fieldNames(reflect.TypeFor[Config]()) })
	containerFields = sync.OnceValue(func() map[string]bool { return fieldNames(reflect.TypeFor[ContainerConfig]()) })
)

// fieldNames returns the lower-case JSON names of t's fields.
func fieldNames(t reflect.Type) map[string]bool {
	names := make(map[string]bool)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "-" {
			names[strings.ToLower(name)] = true
		}
	}
	return names
}

// unknown returns the members of the object data that known does not list.
func unknown(data []byte, known map[string]bool) (map[string]json.RawMessage, error) {
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return nil, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for name := range all {
		if known[strings.ToLower(name)] {
			delete(all, name)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// withExtra marshals the struct v and puts extra behind its fields.
func withExtra(v any, extra map[string]json.RawMessage) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil || len(extra) == 0 {
		return data, err
	}
	more, err := json.Marshal(extra)
	if err != nil {
		return nil, err
	}
	if len(data) == len("{}") {
		return more, nil
	}
	return append(append(data[:len(data)-1], ','), more[1:]...), nil
}
