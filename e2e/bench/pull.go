package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"

	"github.com/stack-run/stack/e2e/peer"
)

const (
	pullLayers = 10
	pullFiles  = 1100 // in each layer
)

// pull measures how long a large image takes from a registry on loopback.
func (b *bench) pull(ctx context.Context) (err error) {
	name := fmt.Sprintf("`pull` of %d layers", pullLayers)
	if !b.wants(name) || b.stack == nil {
		return nil
	}
	r, err := peer.StartRegistry(ctx, filepath.Join(programsPath(b.dir), "registry"), filepath.Join(b.dir, "registry"), peer.RegistryOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	ref := r.Host + "/bench/large:1"
	archive := filepath.Join(b.dir, "large.tar")
	size, err := writeLarge(archive, ref)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"image", "load", "-i", archive}, {"image", "push", ref}, {"image", "rm", ref}} {
		if _, err := peer.Run(b.stack.Command(ctx, args...)); err != nil {
			return err
		}
	}
	if err := os.Remove(archive); err != nil {
		return err
	}
	var what []measure
	for _, s := range b.sides {
		what = append(what, measure{who: s.Name(), do: func() result {
			b.settle()
			r := timed(s.Pull(ctx, ref))
			if r.err == nil {
				_, r.err = peer.Run(s.RemoveImage(ctx, ref))
			}
			return r
		}})
	}
	b.report.add(fmt.Sprintf("%s, %d MiB", name, size>>20), alternate(ctx, b.o.ups, what))
	return nil
}

// writeLarge writes an OCI archive of a large image, and returns the size of its
// compressed layers. Half of what is in them cannot be compressed.
func writeLarge(path, ref string) (size int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a := archive{tar.NewWriter(f)}
	config := map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": map[string]any{"Cmd": []string{"true"}}}
	var layers []descriptor
	var diffIDs []string
	for i := range pullLayers {
		layer, diffID, err := a.layer(path, i)
		if err != nil {
			return 0, err
		}
		size += layer.Size
		layers, diffIDs = append(layers, layer), append(diffIDs, diffID)
	}
	config["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffIDs}
	c, err := a.json("application/vnd.oci.image.config.v1+json", config)
	if err != nil {
		return 0, err
	}
	m, err := a.json("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": c, "layers": layers,
	})
	if err != nil {
		return 0, err
	}
	m.Annotations = map[string]string{"io.containerd.image.name": ref}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{m}})
	if err != nil {
		return 0, err
	}
	return size, errors.Join(a.file("index.json", index), a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), a.Close())
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// archive is an image layout in a tar (image-spec, image-layout.md).
type archive struct{ *tar.Writer }

func (a archive) file(name string, data []byte) error {
	if err := a.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := a.Write(data)
	return err
}

func (a archive) json(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	sum := sha256.Sum256(data)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}
	return d, a.file("blobs/sha256/"+hex.EncodeToString(sum[:]), data)
}

// layer makes a layer of files of all sizes, half noise and half text.
func (a archive) layer(path string, seed int) (d descriptor, diffID string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "layer-")
	if err != nil {
		return d, "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	packed, plain := sha256.New(), sha256.New()
	gz, err := gzip.NewWriterLevel(io.MultiWriter(f, packed), gzip.BestSpeed)
	if err != nil {
		return d, "", err
	}
	out := bufio.NewWriterSize(io.MultiWriter(gz, plain), 1<<20)
	w := tar.NewWriter(out)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	for i := range pullFiles {
		size := 1 << (8 + random.IntN(11)) // 256 bytes to 256 KiB
		if i%100 == 0 {
			size = 4 << 20
		}
		data := make([]byte, size)
		noise.Read(data[:size/2])
		for at := size / 2; at < size; {
			at += copy(data[at:], fmt.Sprintf("line %d of a file that is like many others\n", at))
		}
		name := fmt.Sprintf("usr/share/l%d/d%d/f%d", seed, i%40, i)
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
			return d, "", err
		}
		if _, err := w.Write(data); err != nil {
			return d, "", err
		}
	}
	if err := errors.Join(w.Close(), out.Flush(), gz.Close()); err != nil {
		return d, "", err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return d, "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return d, "", err
	}
	sum := hex.EncodeToString(packed.Sum(nil))
	d = descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: "sha256:" + sum, Size: size}
	if err := a.WriteHeader(&tar.Header{Name: "blobs/sha256/" + sum, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		return d, "", err
	}
	_, err = io.Copy(a, f)
	return d, "sha256:" + hex.EncodeToString(plain.Sum(nil)), err
}
