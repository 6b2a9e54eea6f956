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

// tags follows the pages of a list (OCI distribution-spec, "Content Discovery").
func (c *Client) tags(ctx context.Context, ref reference.Named) ([]string, error) {
	endpoints, err := c.endpoints(ctx, reference.Domain(ref), false)
	if err != nil {
		return nil, err
	}
	e, repo := endpoints[0], reference.Path(ref)
	var all []string
	for path := "/v2/" + repo + "/tags/list"; path != ""; {
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
		next := nextPage(resp)
		if next == path || len(page.Tags) == 0 {
			break
		}
		path = next
	}
	return all, nil
}

// nextPage is where the answer's Link header (RFC 8288) says that the list goes
// on, "" at its end.
func nextPage(resp *http.Response) string {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(link, ";")
		target = strings.TrimSpace(target)
		if !ok || !strings.Contains(params, `rel="next"`) || len(target) < 2 || target[0] != '<' {
			continue
		}
		u, err := url.Parse(target[1 : len(target)-1])
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
