package images

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// toolchainRecipe is what a Go toolchain is put into.
func toolchainRecipe() Recipe {
	return Recipe{
		Ref:      "golang",
		Packages: withBase("ca-certificates"),
		Changes: []string{
			"ENV PATH=/usr/local/go/bin:" + strings.TrimPrefix(path0, "PATH="),
			"ENV GOTOOLCHAIN=local", "ENV GOPATH=/go", "WORKDIR /go", `CMD ["bash"]`,
		},
	}
}

// Toolchain returns the image "golang", in which the programs of packages can be
// built without a network: this machine's Go on packages of Debian, and the
// modules that the packages need. dir is the module's directory.
func (c Cache) Toolchain(ctx context.Context, dir string, packages ...string) (Image, error) {
	recipe := toolchainRecipe()
	img := Image{Ref: recipe.Ref, Changes: recipe.Changes}
	env, err := goEnv(ctx, "GOROOT", "GOVERSION", "GOMODCACHE", "GOPROXY")
	if err != nil {
		return img, err
	}
	h := sha256.New()
	fmt.Fprintln(h, recipe.key(runtime.GOARCH), env["GOVERSION"], packages)
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return img, err
		}
		h.Write(b)
	}
	base, err := c.Debian(ctx, recipe)
	if err != nil {
		return img, err
	}
	img.Tar, err = c.once(ctx, "golang-"+hex.EncodeToString(h.Sum(nil))[:24], func(w io.Writer) error {
		modules, err := os.MkdirTemp(c.Dir, ".modules-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(modules)
		cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-deps"}, packages...)...)
		cmd.Dir = dir
		// What the machine has already is not fetched again.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOMODCACHE="+modules, "GOFLAGS=-modcacherw",
			"GOPROXY=file://"+filepath.Join(env["GOMODCACHE"], "cache/download")+","+env["GOPROXY"])
		if err := run(cmd); err != nil {
			return fmt.Errorf("cannot fetch modules: %w", err)
		}
		return writeToolchain(w, base[0].Tar, env["GOROOT"], modules)
	})
	if err != nil {
		return img, fmt.Errorf("cannot make image %s: %w", img.Ref, err)
	}
	return img, nil
}

func goEnv(ctx context.Context, names ...string) (map[string]string, error) {
	out, err := exec.CommandContext(ctx, "go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask go for its settings: %w", err)
	}
	values := map[string]string{}
	for i, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		if i < len(names) {
			values[names[i]] = line
		}
	}
	return values, nil
}

// writeToolchain writes base's tar with the toolchain and the modules added.
func writeToolchain(w io.Writer, base, goroot, modules string) error {
	f, err := os.Open(base)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := bufio.NewWriterSize(w, 1<<20)
	t := &tree{w: tar.NewWriter(buf), seen: map[string]bool{}}
	for in := tar.NewReader(bufio.NewReaderSize(f, 1<<20)); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", base, err)
		}
		t.copy(h, in)
	}
	t.add("go", entry{dir: true, File: File{Mode: 0o755}})
	t.add("go/pkg", entry{dir: true, File: File{Mode: 0o755}})
	for _, d := range []struct{ from, to string }{
		{filepath.Join(goroot, "bin"), "usr/local/go/bin"},
		{filepath.Join(goroot, "pkg"), "usr/local/go/pkg"},
		{filepath.Join(goroot, "src"), "usr/local/go/src"},
		{filepath.Join(goroot, "VERSION"), "usr/local/go/VERSION"},
		{filepath.Join(goroot, "go.env"), "usr/local/go/go.env"},
		{modules, "go/pkg/mod"},
	} {
		if err := t.addAll(d.from, d.to); err != nil {
			return err
		}
	}
	if t.err != nil {
		return t.err
	}
	return errors.Join(t.w.Close(), buf.Flush())
}

// addAll adds a file, or a directory with all that a build can use of it, as
// root's.
func (t *tree) addAll(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "cmd" && to == "usr/local/go/src"):
			return filepath.SkipDir
		case strings.HasSuffix(path, "_test.go"), strings.HasSuffix(path, ".zip"), strings.HasSuffix(path, ".lock"):
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = filepath.Join(to, rel)
		if d.IsDir() {
			h.Name += "/"
		}
		h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime = 0, 0, "", "", epoch
		var content io.Reader = strings.NewReader("")
		if info.Mode().IsRegular() {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			content = f
		}
		t.copy(h, content)
		return t.err
	})
}
