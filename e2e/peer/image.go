package peer

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Program is a file to put into an image.
type Program struct {
	Path string // on this machine
	Name string // in the image, such as "bin/probe"
}

// Busybox returns the path of a static busybox.
func Busybox() (string, error) {
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox", "/bin/busybox-static"} {
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		static := true
		for _, p := range f.Progs {
			static = static && p.Type != elf.PT_INTERP
		}
		f.Close()
		if static {
			return path, nil
		}
	}
	return "", errors.New("cannot make the image: there is no static busybox; install one, such as Debian's busybox-static")
}

// WriteRootfs writes a tar of a small root filesystem: busybox with all its
// names, an /etc, and more programs.
func WriteRootfs(w io.Writer, busybox string, programs ...Program) error {
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("cannot list the names of %s: %w", busybox, err)
	}
	t := tar.NewWriter(w)
	for _, dir := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var", "var/tmp"} {
		mode := int64(0o755)
		if strings.HasSuffix(dir, "tmp") {
			mode = 0o1777
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
	}
	for name, content := range files {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := io.WriteString(t, content); err != nil {
			return err
		}
	}
	for _, p := range append([]Program{{Path: busybox, Name: "bin/busybox"}}, programs...) {
		if err := addProgram(t, p); err != nil {
			return err
		}
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name == "busybox" {
			continue
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + name, Linkname: "bin/busybox", Mode: 0o755}); err != nil {
			return err
		}
	}
	return t.Close()
}

func addProgram(t *tar.Writer, p Program) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p.Name, Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}
