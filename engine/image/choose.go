package image

import (
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ChooseManifest picks the manifest of an index that is for platform, "" meaning
// this machine's. The error lists the platforms that there are.
func ChooseManifest(idx ocispec.Index, platform string) (ocispec.Descriptor, error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	best, score := ocispec.Descriptor{}, 0
	var have []string
	for _, d := range idx.Manifests {
		if isAttestation(d) {
			continue
		}
		if d.Platform == nil {
			// It is not said; where it is the only one, its config will tell.
			if len(idx.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if name := FormatPlatform(*d.Platform); !slices.Contains(have, name) {
			have = append(have, name)
		}
		if n := matches(want, *d.Platform); n > score {
			best, score = d, n
		}
	}
	if score > 0 {
		return best, nil
	}
	if len(have) == 0 {
		return best, fmt.Errorf("%w: the index lists no image for any platform", ErrNotFound)
	}
	return best, fmt.Errorf("%w for %s; there are images for %s", ErrNotFound, FormatPlatform(want), strings.Join(have, ", "))
}

// CheckPlatform compares an image with a platform that was asked for.
func CheckPlatform(c Config, platform string) error {
	if platform == "" {
		return nil
	}
	want, err := ParsePlatform(platform)
	if err != nil {
		return err
	}
	have := ocispec.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
	if matches(want, have) == 0 {
		return fmt.Errorf("%w for %s; there are images for %s", ErrNotFound, FormatPlatform(want), FormatPlatform(have))
	}
	return nil
}
