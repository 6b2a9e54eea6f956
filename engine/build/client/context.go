package client

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/util/staticfs"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/stack-run/stack/engine/build/request"
)

// dockerfileName is the name of the Dockerfile where nothing else is said.
const dockerfileName = "Dockerfile"

// context sets the build context and the Dockerfile.
func (s *solve) context(t *request.Target, in io.Reader) error {
	attrs := s.options.FrontendAttrs
	inline := []byte(nil)
	switch {
	case t.Inline != "":
		inline = []byte(t.Inline)
	case t.Dockerfile == "-" && t.Context == "-":
		return errors.New("the context and the Dockerfile cannot both be the standard input")
	case t.Dockerfile == "-":
		var err error
		if inline, err = io.ReadAll(in); err != nil {
			return fmt.Errorf("cannot read the Dockerfile from the standard input: %w", err)
		}
	}

	switch {
	case t.Context == "-":
		buffered := bufio.NewReaderSize(in, 1<<12)
		head, err := buffered.Peek(1 << 9)
		if err != nil && err != io.EOF {
			return fmt.Errorf("cannot read the context from the standard input: %w", err)
		}
		if len(head) == 0 {
			return errors.New("the standard input, which is to be the context or the Dockerfile, is empty")
		}
		if !isArchive(head) {
			// A Dockerfile alone, without any context.
			if inline, err = io.ReadAll(buffered); err != nil {
				return fmt.Errorf("cannot read the Dockerfile from the standard input: %w", err)
			}
			s.mount("context", staticfs.NewFS())
			break
		}
		up := uploadprovider.New()
		attrs["context"] = up.Add(io.NopCloser(buffered))
		s.options.Session = append(s.options.Session, up)
	case request.IsRemote(t.Context):
		attrs["context"] = t.Context
	default:
		if err := directory("the build context", t.Context); err != nil {
			return err
		}
		if err := s.local("context", t.Context); err != nil {
			return err
		}
		s.options.SharedKey = sharedKey(t.Context)
	}
	return s.dockerfile(t, inline)
}

func (s *solve) dockerfile(t *request.Target, inline []byte) error {
	attrs := s.options.FrontendAttrs
	remote := s.options.FrontendAttrs["context"] != ""
	switch {
	case inline != nil:
		file := staticfs.NewFS()
		file.Add(dockerfileName, &types.Stat{}, inline)
		attrs["filename"] = dockerfileName
		if remote {
			attrs["dockerfilekey"] = "dockerfile"
		}
		s.mount("dockerfile", file)
		return nil
	case remote && filepath.IsAbs(t.Dockerfile):
		attrs["filename"], attrs["dockerfilekey"] = filepath.Base(t.Dockerfile), "dockerfile"
		if err := regular(t.Dockerfile); err != nil {
			return err
		}
		return s.local("dockerfile", filepath.Dir(t.Dockerfile))
	case remote:
		if t.Dockerfile != "" {
			attrs["filename"] = t.Dockerfile
		}
		return nil
	}
	path := t.Dockerfile
	if path == "" {
		path = filepath.Join(t.Context, dockerfileName)
	}
	if err := regular(path); err != nil {
		return err
	}
	// In the context the name keeps its directory: that is what errors show.
	dir := filepath.Dir(path)
	if within(t.Context, path) {
		dir = t.Context
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	attrs["filename"] = name
	return s.local("dockerfile", dir)
}

// contexts sets the additional contexts.
func (s *solve) contexts(t *request.Target, images map[string]string) error {
	for name, value := range t.Contexts {
		key := "context:" + name
		if target, ok := strings.CutPrefix(value, request.TargetPrefix); ok {
			s.options.FrontendAttrs[key] = "docker-image://" + images[target]
			continue
		}
		if dir, ok := strings.CutPrefix(value, "oci-layout://"); ok {
			if err := s.layout(name, key, dir); err != nil {
				return err
			}
			continue
		}
		if request.HasScheme(value) {
			s.options.FrontendAttrs[key] = value
			continue
		}
		if err := directory("the additional context "+name+",", value); err != nil {
			return err
		}
		s.options.FrontendAttrs[key] = "local:" + name
		if err := s.local(name, value); err != nil {
			return err
		}
	}
	return nil
}

// layout offers an OCI layout's image: DIR[:TAG][@DIGEST].
func (s *solve) layout(name, key, ref string) error {
	dir, want, pinned := strings.Cut(ref, "@")
	dir, tag := splitTag(dir)
	if !pinned {
		desc, err := ociindex.NewStoreIndex(dir).Get(tag)
		if err != nil || desc == nil {
			return fmt.Errorf("the additional context %s: there is no image %q in the OCI layout %s", name, tag, dir)
		}
		want = desc.Digest.String()
	} else if _, err := digest.Parse(want); err != nil {
		return fmt.Errorf("the additional context %s: %w", name, err)
	}
	store, err := contentlocal.NewStore(dir)
	if err != nil {
		return fmt.Errorf("the additional context %s: %w", name, err)
	}
	if s.options.OCIStores == nil {
		s.options.OCIStores = map[string]content.Store{}
	}
	id := "layout-" + sharedKey(dir)
	s.options.OCIStores[id] = store
	s.options.FrontendAttrs[key] = "oci-layout://" + id + "@" + want
	return nil
}

func splitTag(dir string) (path, tag string) {
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		return dir[:i], dir[i+1:]
	}
	return dir, "latest"
}

func (s *solve) local(name, dir string) error {
	f, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	s.mount(name, f)
	return nil
}

func (s *solve) mount(name string, f fsutil.FS) {
	if s.options.LocalMounts == nil {
		s.options.LocalMounts = map[string]fsutil.FS{}
	}
	s.options.LocalMounts[name] = f
}

// isArchive tells a tar archive, compressed or not, from a Dockerfile.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if strings.HasPrefix(string(head), magic) {
			return true
		}
	}
	return len(head) >= 262 && string(head[257:262]) == "ustar"
}

func fromBase64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
