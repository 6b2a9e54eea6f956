package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Tags lists the tags of a repository, sorted. It takes a name without a tag.
func (c *Client) Tags(ctx context.Context, name string) ([]string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read image name %q: %w", name, err)
	}
	tags, err := c.tags(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("cannot list the tags of %s: %w", reference.FamiliarName(ref), err)
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// What a list may have, against registries whose lists never end: far above what
// repositories have.
const (
	maxPages    = 10000
	maxTagBytes = 64 << 20
)

// tags follows the pages of a list (OCI distribution-spec, "Content Discovery").
func (c *Client) tags(ctx context.Context, ref reference.Named) ([]string, error) {
	endpoints, err := c.endpoints(ctx, reference.Domain(ref), false)
	if err != nil {
		return nil, err
	}
	e, repo := endpoints[0], reference.Path(ref)
	var all []string
	size := 0
	seen := map[string]bool{}
	// Some registries have the last page lead to itself or back to the first.
	for path := "/v2/" + repo + "/tags/list"; path != "" && !seen[path]; {
		if seen[path] = true; len(seen) > maxPages {
			return nil, fmt.Errorf("registry %s: the list has more than %d pages", e, maxPages)
		}
		resp, err := c.do(ctx, e, call{method: http.MethodGet, path: path, scope: "repository:" + repo + ":pull", ok: []int{http.StatusOK}})
		if err != nil {
			return nil, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("registry %s: its answer cannot be read: %w", e, err)
		}
		all = append(all, page.Tags...)
		for _, tag := range page.Tags {
			size += len(tag)
		}
		if size > maxTagBytes {
			return nil, fmt.Errorf("registry %s: the tags have more than %d MiB", e, maxTagBytes>>20)
		}
		if len(page.Tags) == 0 {
			break
		}
		path = nextPage(resp)
	}
	return all, nil
}

// nextPage is where the answer's Link header (RFC 8288) says that the list goes
// on, "" at its end.
func nextPage(resp *http.Response) string {
	for _, l := range parseLinks(resp.Header.Values("Link")) {
		if !slices.Contains(l.relations, "next") {
			continue
		}
		u, err := url.Parse(l.target)
		if err != nil {
			continue
		}
		// Only this server's own: the credentials are for it.
		u = resp.Request.URL.ResolveReference(u)
		if u.Host == resp.Request.URL.Host && u.Scheme == resp.Request.URL.Scheme {
			return u.String()
		}
	}
	return ""
}

// link is one link of a Link field.
type link struct {
	target    string
	relations []string // lower case
}

// parseLinks reads all Link lines of an answer, of which each may hold several
// (RFC 8288, section 3 and appendix B.2). What cannot be read is left out.
func parseLinks(lines []string) []link {
	var all []link
	for _, s := range lines {
		for {
			s = strings.TrimLeft(s, blanks+",")
			rest, ok := strings.CutPrefix(s, "<")
			if !ok {
				break
			}
			var l link
			if l.target, s, ok = strings.Cut(rest, ">"); !ok {
				break
			}
			s = l.parameters(s)
			all = append(all, l)
		}
	}
	return all
}

// parameters reads what belongs to a link from the start of s, and returns the rest.
func (l *link) parameters(s string) (rest string) {
	for {
		rest, ok := strings.CutPrefix(strings.TrimLeft(s, blanks), ";")
		if !ok {
			return s
		}
		s = strings.TrimLeft(rest, blanks)
		n := tokenLength(s)
		name := strings.ToLower(s[:n])
		s = strings.TrimLeft(s[n:], blanks)
		value := ""
		if v, ok := strings.CutPrefix(s, "="); ok {
			v = strings.TrimLeft(v, blanks)
			if n = tokenLength(v); strings.HasPrefix(v, `"`) {
				value, s = parameterValue(v)
			} else {
				value, s = v[:n], v[n:]
			}
		}
		if name == "rel" && l.relations == nil { // the first one counts
			l.relations = strings.Fields(strings.ToLower(value))
		}
	}
}
