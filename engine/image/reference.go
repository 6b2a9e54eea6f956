package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// ErrNotFound says that no image has the name or ID, in the words of Docker's that
// scripts search for.
//
//lint:ignore ST1005 they begin with a capital
var ErrNotFound = errors.New("No such image")

// canonicalName returns the full form of a name that an image may have:
// "x" becomes "docker.io/library/x:latest".
func canonicalName(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("cannot read image name %q: %w", name, err)
	}
	return canonical(ref), nil
}

// canonical is the key of ref in the index. A digest makes a tag irrelevant.
func canonical(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return ref.Name() + "@" + d.Digest().String()
	}
	return reference.TagNameOnly(ref).String()
}

// familiar is the short form that Docker shows for a canonical name.
func familiar(name string) string {
	rest, isHub := strings.CutPrefix(name, "docker.io/")
	if !isHub {
		return name
	}
	return strings.TrimPrefix(rest, "library/")
}

// isDigested tells whether a canonical name is name@digest.
func isDigested(name string) bool { return strings.Contains(name, "@") }

// repository is a canonical name without tag or digest.
func repository(name string) string {
	if repo, _, ok := strings.Cut(name, "@"); ok {
		return repo
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

// asID returns the hex digits if ref may be an ID, an abbreviated ID or a
// digest.
func asID(ref string) (hex string, ok bool) {
	hex = strings.TrimPrefix(ref, "sha256:")
	if len(hex) == 0 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", false
	}
	return hex, true
}

// shortID is the ID as lists show it.
func shortID(id digest.Digest) string {
	hex := id.Encoded()
	return hex[:min(12, len(hex))]
}
