package desired

import (
	"errors"
	"testing"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/volumes/volume"
)

func TestKeyDigests(t *testing.T) {
	key := func(digest string) (string, error) { return "hmac-sha256:of " + digest, nil }
	make := func(digest string, secret bool) *container.Spec {
		s := &container.Spec{Name: "a", Labels: map[string]string{"x": "y"}, Mounts: []volume.Mount{
			{Type: volume.TypeFile, Target: "/s", ContentDigest: digest, Secret: secret}, {Type: volume.TypeBind, Source: "/x", Target: "/x"},
		}}
		s.Labels[LabelConfigHash] = Hash(s)
		return s
	}
	plain, wanted := make("sha256:1", true), make("hmac-sha256:of sha256:1", true)
	got, hash, changed, err := KeyDigests(plain, Hash(plain), key)
	if err != nil || !changed || hash != Hash(wanted) || got.Mounts[0].ContentDigest != wanted.Mounts[0].ContentDigest || got.Labels[LabelConfigHash] != hash {
		t.Errorf("%+v, %q, %v, %v", got, hash, changed, err)
	}
	if plain.Mounts[0].ContentDigest != "sha256:1" || plain.Labels[LabelConfigHash] != Hash(plain) {
		t.Error("the spec itself is changed")
	}
	if _, hash, changed, _ := KeyDigests(plain, "v1:of something else", key); !changed || hash != "" {
		t.Errorf("a spec that was changed since has the hash %q", hash)
	}
	for what, s := range map[string]*container.Spec{"keyed": wanted, "of a config": make("sha256:1", false), "none": {}} {
		if same, hash, changed, err := KeyDigests(s, "h", key); same != s || hash != "h" || changed || err != nil {
			t.Errorf("%s: %+v, %q, %v, %v", what, same, hash, changed, err)
		}
	}
	failed := errors.New("no key")
	if same, _, changed, err := KeyDigests(plain, "h", func(string) (string, error) { return "", failed }); same != plain || changed || err != failed {
		t.Errorf("%v, %v", changed, err)
	}
}
