package image

import (
	"fmt"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ParsePlatform reads "os/arch[/variant]", "arch" or "os", with the usual other
// names of architectures. "" is this machine's platform.
func ParsePlatform(s string) (ocispec.Platform, error) {
	p := hostPlatform()
	if s == "" {
		return p, nil
	}
	parts := strings.Split(s, "/")
	for _, part := range parts {
		if part == "" {
			return p, fmt.Errorf("cannot read platform %q: a part is empty; write OS/ARCH[/VARIANT], such as linux/arm64", s)
		}
	}
	switch len(parts) {
	case 1:
		if parts[0] == "linux" || parts[0] == "windows" || parts[0] == "darwin" || parts[0] == "freebsd" {
			p.OS = parts[0]
			return p, nil
		}
		return normalise(ocispec.Platform{OS: p.OS, Architecture: parts[0]}), nil
	case 2:
		return normalise(ocispec.Platform{OS: parts[0], Architecture: parts[1]}), nil
	case 3:
		return normalise(ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}), nil
	}
	return p, fmt.Errorf("cannot read platform %q: write OS/ARCH[/VARIANT], such as linux/arm64", s)
}

// FormatPlatform is the opposite of ParsePlatform.
func FormatPlatform(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func hostPlatform() ocispec.Platform {
	return normalise(ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH})
}

// normalise maps other names of an architecture to Go's, which image-spec
// requires, and drops the variant that the architecture has by default.
func normalise(p ocispec.Platform) ocispec.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386", "i686", "x86":
		p.Architecture = "386"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "8" || p.Variant == "v8"):
		p.Variant = ""
	case p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "arm" && !strings.HasPrefix(p.Variant, "v"):
		p.Variant = "v" + p.Variant
	}
	return p
}

// matches tells how well an image for have runs where want is asked for: 0 not
// at all, and the higher the better.
func matches(want, have ocispec.Platform) int {
	have = normalise(have)
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return 0
	}
	switch {
	case want.Variant == have.Variant:
		return 100
	case have.Variant == "":
		return 50
	case want.Architecture == "arm" && have.Variant < want.Variant:
		return 10 + int(have.Variant[len(have.Variant)-1]-'0') // v6 runs on v7
	case want.Architecture == "arm64" && want.Variant == "":
		return 5
	}
	return 0
}
