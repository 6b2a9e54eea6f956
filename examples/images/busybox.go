package images

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// BusyBox returns "busybox:latest", made of the machine's own static BusyBox
// (Debian's package busybox-static).
func (c Cache) BusyBox(ctx context.Context) (Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return Image{}, errors.New("busybox is not installed; run: apt-get install busybox-static")
	}
	out, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("cannot list the applets of %s: %w", path, err)
	}
	dynamic, err := isDynamic(path)
	if err != nil {
		return Image{}, err
	}
	if dynamic {
		return Image{}, fmt.Errorf("%s is not a static binary; run: apt-get install busybox-static", path)
	}
	p := Program{
		Ref:     "busybox:latest",
		Path:    "/bin/busybox",
		Package: path,
		Changes: []string{`CMD ["sh"]`, "ENV " + path0},
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			p.Links = append(p.Links, "/bin/"+applet)
		}
	}
	return c.Static(ctx, p)
}

// isDynamic reports whether a program asks for a dynamic loader.
func isDynamic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, fmt.Errorf("cannot read %s: %w", path, err)
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}
