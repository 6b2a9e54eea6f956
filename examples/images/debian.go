package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// build writes the recipe's root file system to w.
func (r Recipe) build(ctx context.Context, w io.Writer) error {
	mm, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return errors.New("mmdebstrap is not installed; run: apt-get install mmdebstrap")
	}
	// The variant "extract" unpacks without running package scripts: it needs no
	// chroot and no privileges, and is many times quicker. What the scripts would
	// have done here (users, links) is in the recipe.
	args := []string{"--quiet", "--variant=extract", "--format=tar",
		"--include=" + strings.Join(r.Packages, ","), Suite, "-"}
	cmd := exec.CommandContext(ctx, mm, append(args, sources()...)...)
	pr, pw := io.Pipe()
	cmd.Stdout = pw
	done := make(chan error, 1)
	go func() {
		err := run(cmd)
		pw.CloseWithError(err) // nil is a plain end of file
		done <- err
	}()
	ferr := r.filter(pr, w)
	pr.CloseWithError(ferr)
	if err := <-done; err != nil {
		return err
	}
	return ferr
}

// sources returns mmdebstrap's mirror arguments: this machine's own apt sources
// where it runs the suite itself (they are known to be reachable), or none,
// which means Debian's default mirror.
func sources() []string {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(release), "VERSION_CODENAME="+Suite+"\n") {
		return nil
	}
	for _, p := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), Suite) {
			return []string{p}
		}
	}
	return nil
}

// epoch is the time of the files that are added: a fixed one, so that the same
// recipe makes the same tar.
var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// filter copies the extracted packages from in to out: /usr is merged as Debian
// installs it, what the recipe drops is left out, what it adds is added.
func (r Recipe) filter(in io.Reader, out io.Writer) error {
	buf := bufio.NewWriterSize(out, 1<<20)
	t := &tree{w: tar.NewWriter(buf), seen: map[string]bool{}}
	extra := r.extra()
	var accounts accounts

	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			// What pads the archive has to be read too, or its writer fails.
			if _, err := io.Copy(io.Discard, in); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read the extracted packages: %w", err)
		}
		name := merged(h.Name)
		if name == "" {
			continue
		}
		if err := accounts.note(name, tr); err != nil {
			return err
		}
		if r.drops(name) {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = merged(h.Linkname)
			if r.drops(h.Linkname) {
				return fmt.Errorf("cannot drop %s: %s is a hard link to it", h.Linkname, name)
			}
		}
		if _, replaced := extra[name]; replaced || t.seen[name] {
			continue
		}
		h.Name = name
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		t.copy(h, tr)
	}

	extra["etc/passwd"] = entry{File: File{accounts.passwd(r.Users), 0o644, 0}}
	extra["etc/group"] = entry{File: File{accounts.group(r.Users), 0o644, 0}}
	for _, name := range sortedKeys(extra) {
		t.add(name, extra[name])
	}
	if t.err == nil {
		t.err = t.w.Close()
	}
	if t.err == nil {
		t.err = buf.Flush()
	}
	return t.err
}

// merged returns the path of a package's file in a merged /usr, without leading
// "./", or "" for the root itself.
func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	switch top, _, _ := strings.Cut(name, "/"); top {
	case "bin", "lib", "lib64", "sbin":
		return "usr/" + name
	}
	return name
}

// An entry is one added file, directory or link: the field that is set.
type entry struct {
	File
	dir  bool
	link string
}

// extra is what the recipe adds, by path. It wins over the packages' files.
func (r Recipe) extra() map[string]entry {
	m := map[string]entry{
		"etc/passwd":    {},
		"etc/group":     {},
		"etc/localtime": {link: "/usr/share/zoneinfo/Etc/UTC"},
		"var/run":       {link: "/run"},
		"run":           {dir: true, File: File{Mode: 0o755}},
		"usr":           {dir: true, File: File{Mode: 0o755}},
	}
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} {
		m["usr/"+d] = entry{dir: true, File: File{Mode: 0o755}}
		m[d] = entry{link: "usr/" + d}
	}
	// What the runtime mounts over must be there in a read-only image too.
	for _, d := range []string{"dev", "proc", "sys"} {
		m[d] = entry{dir: true, File: File{Mode: 0o755}}
	}
	for _, d := range r.Dirs {
		m[d.Path] = entry{dir: true, File: File{Mode: d.Mode, UID: d.UID}}
	}
	for p, f := range r.Files {
		m[p] = entry{File: f}
	}
	for p, target := range r.Links {
		m[p] = entry{link: target}
	}
	return m
}

// A tree writes a tar in which each path occurs once. It keeps the first error.
type tree struct {
	w    *tar.Writer
	seen map[string]bool
	err  error
}

func (t *tree) copy(h *tar.Header, r io.Reader) {
	t.seen[strings.TrimSuffix(h.Name, "/")] = true
	if t.err != nil {
		return
	}
	h.Format = tar.FormatPAX
	h.ModTime = h.ModTime.Truncate(time.Second)
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if t.err = t.w.WriteHeader(h); t.err == nil && h.Size > 0 {
		_, t.err = io.Copy(t.w, r)
	}
}

func (t *tree) add(name string, e entry) {
	h := &tar.Header{Name: name, Mode: e.Mode, Uid: e.UID, Gid: e.UID, ModTime: epoch}
	switch {
	case e.dir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.Text))
	}
	t.copy(h, strings.NewReader(e.Text))
}

// accounts collects the user and group files that the package base-passwd
// would have installed.
type accounts struct{ users, groups string }

func (a *accounts) note(name string, r io.Reader) error {
	var to *string
	switch name {
	case "usr/share/base-passwd/passwd.master":
		to = &a.users
	case "usr/share/base-passwd/group.master":
		to = &a.groups
	default:
		return nil
	}
	b, err := io.ReadAll(r)
	*to = strings.ReplaceAll(string(b), ":*:", ":x:")
	return err
}

func (a *accounts) passwd(users []User) string {
	var b strings.Builder
	b.WriteString(a.users)
	for _, u := range users {
		fmt.Fprintf(&b, "%s:x:%d:%d::%s:/usr/sbin/nologin\n", u.Name, u.ID, u.ID, u.Home)
	}
	return b.String()
}

func (a *accounts) group(users []User) string {
	var b strings.Builder
	b.WriteString(a.groups)
	for _, u := range users {
		fmt.Fprintf(&b, "%s:x:%d:\n", u.Name, u.ID)
	}
	return b.String()
}
