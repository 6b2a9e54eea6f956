package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Candidate is a member of an index that may be the image that is wanted.
type Candidate struct {
	ocispec.Descriptor
	// Unsaid says that the index does not tell the platform: the member, which may
	// be an index itself, must be looked at.
	Unsaid bool
}

// Candidates returns the members of an index that are for platform, "" meaning
// this machine's, the best first, and after them those whose platform the index
// does not tell. It also returns the platforms that the index has.
func Candidates(idx ocispec.Index, platform string) (found []Candidate, have []string, err error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return nil, nil, err
	}
	if len(idx.Manifests) > maxIndexMembers {
		return nil, nil, fmt.Errorf("the image index has %d manifests, more than %d", len(idx.Manifests), maxIndexMembers)
	}
	var unsaid []Candidate
	scores := map[digest.Digest]int{}
	for _, d := range idx.Manifests {
		switch {
		case isAttestation(d):
			continue
		case d.Platform == nil || d.Platform.OS == "" || d.Platform.Architecture == "":
			unsaid = append(unsaid, Candidate{Descriptor: d, Unsaid: true})
			continue
		}
		if name := FormatPlatform(*d.Platform); !slices.Contains(have, name) {
			have = append(have, name)
		}
		if n := matches(want, *d.Platform); n > 0 && scores[d.Digest] == 0 {
			scores[d.Digest] = n
			found = append(found, Candidate{Descriptor: d})
		}
	}
	slices.SortStableFunc(found, func(a, b Candidate) int { return scores[b.Digest] - scores[a.Digest] })
	return append(found, unsaid...), have, nil
}

// NoneFor is the error for an image that is not there for platform.
func NoneFor(platform string, have []string) error {
	want, err := ParsePlatform(platform)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return fmt.Errorf("%w for %s; the index lists no image for any platform", ErrNotFound, FormatPlatform(want))
	}
	return fmt.Errorf("%w for %s; there are images for %s", ErrNotFound, FormatPlatform(want), listed(have))
}

// listed writes platforms for a message. They are an image's own words.
func listed(have []string) string {
	const most = 30
	words := make([]string, 0, most+1)
	for _, p := range have[:min(len(have), most)] {
		words = append(words, inWords(p))
	}
	if more := len(have) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// inWords is a text of an image's for a message: it may be long, or have characters
// that would disturb a terminal.
func inWords(text string) string {
	const most = 100
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
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
			return nil, fmt.Errorf("%w for %s; there are images for %s", ErrNotFound, FormatPlatform(want), listed(have))
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

// CheckPlatform compares an image with a platform that was asked for, "" meaning
// any.
func CheckPlatform(c Config, platform string) error {
	if platform == "" || c.RunsOn(platform) {
		return nil
	}
	return NoneFor(platform, []string{FormatPlatform(c.Platform())})
}

// RunsOn tells whether an image is for platform, "" meaning this machine's.
func (c Config) RunsOn(platform string) bool {
	want, err := ParsePlatform(platform)
	return err == nil && matches(want, c.Platform()) > 0
}

// Platform is what the image runs on. One that does not say so is taken for this
// machine's, as Docker does.
func (c Config) Platform() ocispec.Platform {
	p := ocispec.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures}
	host := hostPlatform()
	if p.OS == "" {
		p.OS = host.OS
	}
	if p.Architecture == "" {
		p.Architecture, p.Variant = host.Architecture, host.Variant
	}
	return p
}
