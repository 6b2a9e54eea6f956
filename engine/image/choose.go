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

// forPlatforms returns the images that are for one of the platforms, all if none
// is given. Each must be there.
func forPlatforms(records []record, platforms []string) ([]record, error) {
	if len(platforms) == 0 {
		return records, nil
	}
	var have []string
	var all []ocispec.Platform
	for _, r := range records {
		img, err := r.image()
		if err != nil {
			return nil, err
		}
		all, have = append(all, img.Platform), append(have, FormatPlatform(img.Platform))
	}
	taken := make([]bool, len(records))
	for _, name := range platforms {
		want, err := ParsePlatform(name)
		if err != nil {
			return nil, err
		}
		found := false
		for i, p := range all {
			if isFor(want, p) {
				taken[i], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%w for %s; there are images for %s", ErrNotFound, FormatPlatform(want), strings.Join(have, ", "))
		}
	}
	var out []record
	for i, r := range records {
		if taken[i] {
			out = append(out, r)
		}
	}
	return out, nil
}

// isFor tells whether an image for have is the one that is meant by want, and not
// just one that runs there.
func isFor(want, have ocispec.Platform) bool { return matches(want, have) >= 50 }

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
