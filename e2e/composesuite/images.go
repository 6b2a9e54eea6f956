package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/e2e/peer"
	"github.com/stack-run/stack/examples/images"
)

// image is what the hub serves under some names.
type image struct {
	Names  []string // "alpine:3.20"
	Layers []string // paths of tars
	Config specs.ImageConfig
}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// platforms are those that the hub has each image for. All have this machine's
// programs: the tests build for others, but run nothing there.
var platforms = []specs.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64", Variant: "v8"},
	{OS: "linux", Architecture: "386"},
	{OS: "linux", Architecture: "arm", Variant: "v7"},
}

// makeImages makes what the tests pull. What they do with an image decides what it
// is made of: a BusyBox will do for Alpine, while nginx is nginx.
func makeImages(ctx context.Context, at layout) ([]image, error) {
	dir, err := images.DefaultDir()
	if err != nil {
		return nil, err
	}
	cache := images.Cache{Dir: dir, Log: os.Stderr}
	busybox, err := cache.BusyBox(ctx)
	if err != nil {
		return nil, err
	}
	nginx := images.Nginx()
	nginx.Ref, nginx.Packages = "nginx:suite", append(nginx.Packages, "curl", "iputils-ping")
	debian := images.Recipe{Ref: "debian:suite", Packages: []string{
		"base-files", "base-passwd", "bash", "coreutils", "dash", "diffutils", "findutils", "grep", "hostname", "libc-bin", "procps", "sed", "tar"}}
	made, err := cache.Debian(ctx, nginx, debian)
	if err != nil {
		return nil, err
	}
	web, userland := made[0].Tar, made[1].Tar

	tools, err := peer.Busybox()
	if err != nil {
		return nil, err
	}

	m := maker{at: at}
	alpine := m.layer("alpine", files{
		"sbin/apk":    {text: "#!/bin/sh\n# All that the tests install is there.\nexit 0\n", mode: 0o755},
		"bin/ssh-add": {path: at.path("standin")},
		"usr/bin/env": {link: "/bin/busybox"}, "usr/bin/printenv": {link: "/bin/ssh-add"}, "var/run": {link: "/run"},
		"usr/local/bin/": {}, "opt/": {}, "srv/": {}, "mnt/": {}, "home/": {}, "usr/bin/": {}, "lib/": {}, "var/lib/": {},
	})
	for _, version := range []string{"3.12", "3.13.12", "3.14", "3.15", "3.18", "3.19", "3.20", "3.22", "latest"} {
		names := []string{"alpine:" + version}
		if version == "latest" {
			names = append(names, "golang:alpine", "alpine/curl:latest")
		}
		m.add(image{
			Names:  names,
			Layers: []string{busybox.Tar, alpine, m.layer("alpine-"+version, files{"etc/alpine-release": {text: version + "\n"}})},
			Config: specs.ImageConfig{Env: []string{searchPath}, Cmd: []string{"/bin/sh"}, WorkingDir: "/"},
		})
	}
	for _, version := range []string{"latest", "1.35.0"} {
		m.add(image{
			Names:  []string{"busybox:" + version},
			Layers: []string{busybox.Tar, m.layer("busybox-"+version, files{"etc/busybox-release": {text: version + "\n"}})},
			Config: specs.ImageConfig{Env: []string{searchPath}, Cmd: []string{"sh"}},
		})
	}
	m.add(image{
		Names:  []string{"debian:latest"},
		Layers: []string{userland},
		Config: specs.ImageConfig{Env: []string{searchPath}, Cmd: []string{"bash"}},
	})
	m.add(image{
		Names:  []string{"bash:latest"},
		Layers: []string{userland, m.layer("bash", files{"usr/local/bin/docker-entrypoint.sh": {mode: 0o755, text: bashEntrypoint}})},
		Config: specs.ImageConfig{Env: []string{searchPath}, Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"bash"}},
	})
	m.add(image{
		Names: []string{"nginx:latest", "nginx:alpine"},
		Layers: []string{web, m.layer("nginx", files{
			"docker-entrypoint.sh":  {mode: 0o755, text: "#!/bin/sh\nexec \"$@\"\n"},
			"usr/local/bin/busybox": {path: tools},
			"usr/local/bin/nc":      {link: "busybox"}, "usr/local/bin/ash": {link: "busybox"}, "usr/local/bin/wget": {link: "busybox"},
		})},
		Config: specs.ImageConfig{Env: []string{searchPath}, Entrypoint: []string{"/docker-entrypoint.sh"}, Cmd: []string{"nginx", "-g", "daemon off;"},
			ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT"},
	})
	for _, s := range []struct {
		name, program string
		cmd           []string
		ports         []string
	}{
		{"gtardif/sentences-web:latest", "dispatcher", []string{"/dispatcher"}, []string{"80/tcp"}},
		{"gtardif/sentences-api:latest", "usr/bin/java", []string{"java", "-Xmx8m", "-Xms8m", "-jar", "/app/words.jar"}, []string{"8080/tcp"}},
		{"gtardif/sentences-db:latest", "usr/bin/postgres", []string{"postgres"}, []string{"5432/tcp"}},
		{"mariadb:latest", "usr/bin/mariadbd", []string{"mariadbd"}, []string{"3306/tcp"}},
		{"fluent/fluent-bit:3.1.7-debug", "usr/bin/fluent-bit", []string{"fluent-bit"}, []string{"24224/tcp"}},
		{"hello-world:latest", "hello", []string{"/hello"}, nil},
	} {
		ports := map[string]struct{}{}
		for _, p := range s.ports {
			ports[p] = struct{}{}
		}
		name, _, _ := strings.Cut(strings.ReplaceAll(s.name, "/", "-"), ":")
		m.add(image{
			Names: []string{s.name},
			Layers: []string{busybox.Tar, m.layer(name, files{
				s.program: {path: at.path("standin")}, "usr/local/bin/curl": {path: at.path("standin")}})},
			Config: specs.ImageConfig{Env: []string{searchPath}, Cmd: s.cmd, ExposedPorts: ports},
		})
	}
	m.add(image{
		Names: []string{"registry:3", "registry:latest"},
		Layers: []string{busybox.Tar, m.layer("registry", files{
			"bin/registry":                {path: at.path("programs/registry")},
			"etc/distribution/config.yml": {text: registryConfig},
		})},
		Config: specs.ImageConfig{Env: []string{searchPath, "OTEL_TRACES_EXPORTER=none"}, Entrypoint: []string{"registry", "serve"},
			Cmd: []string{"/etc/distribution/config.yml"}, ExposedPorts: map[string]struct{}{"5000/tcp": {}},
			Volumes: map[string]struct{}{"/var/lib/registry": {}}},
	})
	m.add(image{ // what "# syntax=docker/dockerfile" asks for
		Names:  []string{"docker/dockerfile:latest", "docker/dockerfile:1", "docker/dockerfile:experimental"},
		Layers: []string{m.layer("dockerfile", files{"bin/dockerfile-frontend": {path: at.path("dockerfile-frontend")}})},
		Config: specs.ImageConfig{Entrypoint: []string{"/bin/dockerfile-frontend"},
			Labels: map[string]string{"moby.buildkit.frontend.network.none": "true"}},
	})
	return m.images, m.err
}

const bashEntrypoint = `#!/bin/bash
if [[ $1 == -* ]] || ! type -- "$1" >/dev/null 2>&1; then set -- bash "$@"; fi
exec "$@"
`

const registryConfig = `version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
http: {addr: ":5000"}
`

// maker collects images. It keeps the first error.
type maker struct {
	at     layout
	images []image
	err    error
}

func (m *maker) add(i image) { m.images = append(m.images, i) }

// files are what a layer has, by path; a path with a slash at its end is a directory.
type files map[string]file

type file struct {
	text, path, link string // what is in it, where that is, or where it leads
	mode             int64
}

// layer writes a tar and returns its path.
func (m *maker) layer(name string, all files) string {
	path := m.at.path("layer-" + name + ".tar")
	if m.err == nil {
		m.err = writeLayer(path, all)
	}
	return path
}

func writeLayer(path string, all files) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	made := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		if strings.HasSuffix(name, "/") {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: made}); err != nil {
				return err
			}
			continue
		}
		if f.link != "" {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: f.link, Mode: 0o777, ModTime: made}); err != nil {
				return err
			}
			continue
		}
		content, mode := []byte(f.text), f.mode
		if f.path != "" {
			if content, err = os.ReadFile(f.path); err != nil {
				return err
			}
			mode = 0o755
		}
		if mode == 0 {
			mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: made}); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return w.Close()
}

// blob is what has a digest: in memory, or a file.
type blob struct {
	kind string
	text []byte
	path string
}

func (b blob) open() (io.ReadSeekCloser, error) {
	if b.path != "" {
		return os.Open(b.path)
	}
	return nopCloser{strings.NewReader(string(b.text))}, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// publish adds an image's blobs to the hub and names its index.
func (h *hub) publish(i image) error {
	var layers []specs.Descriptor
	var diffs []digest.Digest
	for _, path := range i.Layers {
		d, err := h.addFile(path)
		if err != nil {
			return err
		}
		layers = append(layers, d)
		diffs = append(diffs, d.Digest)
	}
	index := specs.Index{MediaType: specs.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, p := range platforms {
		made := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
		config, err := h.addJSON(specs.MediaTypeImageConfig, specs.Image{
			Created: &made, Platform: p, Config: i.Config, RootFS: specs.RootFS{Type: "layers", DiffIDs: diffs}})
		if err != nil {
			return err
		}
		manifest := specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: config, Layers: layers}
		manifest.SchemaVersion = 2
		d, err := h.addJSON(specs.MediaTypeImageManifest, manifest)
		if err != nil {
			return err
		}
		d.Platform = &p
		index.Manifests = append(index.Manifests, d)
	}
	d, err := h.addJSON(specs.MediaTypeImageIndex, index)
	if err != nil {
		return err
	}
	for _, name := range i.Names {
		repository, tag, _ := strings.Cut(name, ":")
		if !strings.Contains(repository, "/") {
			repository = "library/" + repository
		}
		if h.tags[repository] == nil {
			h.tags[repository] = map[string]digest.Digest{}
		}
		h.tags[repository][tag] = d.Digest
	}
	return nil
}

func (h *hub) addJSON(kind string, v any) (specs.Descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return specs.Descriptor{}, err
	}
	d := specs.Descriptor{MediaType: kind, Digest: digest.FromBytes(text), Size: int64(len(text))}
	h.blobs[d.Digest] = blob{kind: kind, text: text}
	return d, nil
}

func (h *hub) addFile(path string) (specs.Descriptor, error) {
	f, err := os.Open(path)
	if err != nil {
		return specs.Descriptor{}, err
	}
	defer f.Close()
	sum, err := digest.FromReader(f)
	if err != nil {
		return specs.Descriptor{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return specs.Descriptor{}, err
	}
	h.blobs[sum] = blob{kind: "application/octet-stream", path: path}
	return specs.Descriptor{MediaType: specs.MediaTypeImageLayer, Digest: sum, Size: info.Size()}, nil
}
