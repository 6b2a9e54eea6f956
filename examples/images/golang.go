package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Program is an image that holds one static binary and nothing else.
type Program struct {
	Ref string
	// Path is the binary's path in the image, which is its entry point too.
	Path string
	// Package is the Go package to build, relative to the module ("./web"),
	// or, when it begins with a slash, a binary that is there already.
	Package string
	// Links are further names of the binary (BusyBox's applets).
	Links   []string
	Changes []string
}

// Go returns images of Go programs, built from the module in dir. The tar's
// name is the digest of the binary, so only a changed program makes a new one.
func (c Cache) Go(ctx context.Context, dir string, programs ...Program) ([]Image, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// One directory per checkout: go build leaves a binary alone that is up to date.
	sum := sha256.Sum256([]byte(abs))
	bin := filepath.Join(c.Dir, "bin", hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(bin + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()

	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", bin + "/"}
	for _, p := range programs {
		args = append(args, p.Package)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = abs
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := run(cmd); err != nil {
		return nil, fmt.Errorf("cannot build %s: %w", strings.Join(args[5:], " "), err)
	}
	var out []Image
	for _, p := range programs {
		p.Package = filepath.Join(bin, filepath.Base(p.Package))
		img, err := c.Static(ctx, p)
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// Static returns the image of a static binary that is on this machine.
func (c Cache) Static(ctx context.Context, p Program) (Image, error) {
	b, err := os.ReadFile(p.Package)
	if err != nil {
		return Image{}, fmt.Errorf("cannot make image %s: %w", p.Ref, err)
	}
	h := sha256.New()
	fmt.Fprintln(h, recipeVersion, p.Path, p.Links)
	h.Write(b)
	path, err := c.once(ctx, slug(p.Ref)+"-"+hex.EncodeToString(h.Sum(nil))[:24], func(w io.Writer) error {
		return p.write(w, b)
	})
	if err != nil {
		return Image{}, fmt.Errorf("cannot make image %s: %w", p.Ref, err)
	}
	return Image{Ref: p.Ref, Tar: path, Changes: p.Changes}, nil
}

func (p Program) write(w io.Writer, binary []byte) error {
	t := &tree{w: tar.NewWriter(w), seen: map[string]bool{}}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "run", "var", "var/lib"} {
		t.add(d, entry{dir: true, File: File{Mode: 0o755}})
	}
	t.add("root", entry{dir: true, File: File{Mode: 0o700}})
	t.add("tmp", entry{dir: true, File: File{Mode: 0o1777}})
	t.add("etc/passwd", entry{File: File{Mode: 0o644, Text: "root:x:0:0:root:/root:/bin/sh\n" +
		"app:x:1000:1000::/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"}})
	t.add("etc/group", entry{File: File{Mode: 0o644, Text: "root:x:0:\napp:x:1000:\nnogroup:x:65534:\n"}})
	t.add(strings.TrimPrefix(p.Path, "/"), entry{File: File{Mode: 0o755, Text: string(binary)}})
	for _, l := range p.Links {
		t.add(strings.TrimPrefix(l, "/"), entry{link: p.Path})
	}
	if t.err == nil {
		t.err = t.w.Close()
	}
	return t.err
}
