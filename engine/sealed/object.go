// Package sealed stores secrets and configs: small files that a project names and
// does not bring along. Each is one record below the data root, whose content is
// encrypted with a key that lies beside it.
//
// The key keeps the content out of what is copied without it: a backup or an image
// of single files, a disk that goes to somebody else after the key was destroyed.
// It keeps nothing from root, who can read it.
//
// What tells of a secret without giving it away is in clear: list, removal and the
// comparison with what a container has do not need the key.
package sealed

import (
	"fmt"
	"regexp"
	"sync"
	"time"
	"unicode/utf8"
)

// Kind is what an object is. A secret and a config may have the same name.
type Kind string

const (
	Secret Kind = "secret"
	Config Kind = "config"
)

// The most that an object may hold, in bytes, as in Docker
// (github.com/moby/swarmkit/v2/api/validation, MaxSecretSize; manager/controlapi, MaxConfigSize).
const (
	maxSecret = 500 << 10
	maxConfig = 1000 << 10
)

// MaxSize is the most that an object of a kind may hold, in bytes.
func (k Kind) MaxSize() int {
	if k == Config {
		return maxConfig
	}
	return maxSecret
}

// Command is the command line's word for the verbs on a kind.
func (k Kind) Command() string {
	if k == Config {
		return "stack configs" // "stack config" is Compose's
	}
	return "stack secret"
}

func (k Kind) valid() bool { return k == Secret || k == Config }

// Object is a secret or config without its content.
type Object struct {
	Kind    Kind              `json:"kind"`
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	// Digest tells contents apart. Without the key it says nothing about them, also
	// not whether one that was guessed is right.
	Digest string `json:"digest"`
}

// maxName is the longest name, in bytes, as in Docker.
const maxName = 64

// validName is compiled when it is first used: every command starts with this package.
var validName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)
})

// CheckName says what is wrong with a name.
func CheckName(k Kind, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a %s needs a name", k)
	case len(name) > maxName:
		return fmt.Errorf("%s name %q has %d characters; use at most %d", k, name, len(name), maxName)
	case !validName().MatchString(name):
		return fmt.Errorf("%s name %q is not valid; use letters, digits, '-', '_' and '.', with a letter or digit at both ends", k, name)
	}
	return nil
}

func checkContent(k Kind, name string, content []byte) error {
	switch {
	case len(content) == 0:
		return fmt.Errorf("cannot create %s %q: the content is empty", k, name)
	case len(content) > k.MaxSize():
		return fmt.Errorf("cannot create %s %q: the content is larger than %d KiB; use a bind mount or a volume for large files", k, name, k.MaxSize()>>10)
	}
	return nil
}

// checkLabels refuses what JSON could not give back as it was.
func checkLabels(k Kind, name string, labels map[string]string) error {
	for key, value := range labels {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return fmt.Errorf("cannot create %s %q: label %q is not UTF-8", k, name, key)
		}
	}
	return nil
}
