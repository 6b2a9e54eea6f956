package engine

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"
)

// LogDetails is what a container's logging options say about each of its lines, for
// "logs --details": labels and variables that they name, and the tag, as
// "KEY=VALUE,…". Docker Docs, "Customize log driver output".
func (e *Engine) LogDetails(c *Container) (string, error) {
	o := c.Spec.Log.Options
	if len(o) == 0 {
		return "", nil
	}
	base := e.base(c)
	labels := maps.Clone(base.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, c.Spec.Labels)
	env := map[string]string{}
	for _, line := range slices.Concat(base.Env, c.Spec.Process.Env) {
		if key, value, ok := strings.Cut(line, "="); ok {
			env[key] = value
		}
	}
	details := map[string]string{}
	for _, from := range []struct {
		option string
		values map[string]string
	}{{"labels", labels}, {"env", env}} {
		for _, name := range strings.Split(o[from.option], ",") {
			if v, ok := from.values[name]; ok {
				details[name] = v
			}
		}
		if text := o[from.option+"-regex"]; text != "" {
			re, err := regexp.Compile(text)
			if err != nil {
				return "", fmt.Errorf("cannot use logging option %s-regex: %w", from.option, err)
			}
			for name, v := range from.values {
				if re.MatchString(name) {
					details[name] = v
				}
			}
		}
	}
	if o["tag"] != "" {
		tag, err := logTag(o["tag"], c)
		if err != nil {
			return "", fmt.Errorf("cannot use logging option tag: %w", err)
		}
		details["tag"] = tag
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(details)) {
		out = append(out, url.QueryEscape(key)+"="+url.QueryEscape(details[key]))
	}
	return strings.Join(out, ","), nil
}

// logTag fills in a tag's template.
func logTag(text string, c *Container) (string, error) {
	t, err := template.New("tag").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", err
	}
	short := func(id string) string {
		id = strings.TrimPrefix(id, "sha256:")
		return id[:min(12, len(id))]
	}
	var b strings.Builder
	err = t.Execute(&b, map[string]string{
		"ID": short(c.ID), "FullID": c.ID, "Name": path.Base(c.Spec.Name), "ImageName": c.Spec.Image,
		"ImageID": short(c.Spec.ImageID), "ImageFullID": c.Spec.ImageID, "DaemonName": "stack",
		"Command": strings.Join(slices.Concat(c.Spec.Process.Entrypoint, c.Spec.Process.Command), " "),
	})
	return b.String(), err
}
