package engine

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine/logs/driver"
)

// logInfo is what logging drivers tell of a container.
func (e *Engine) logInfo(c *Container) *driver.Info {
	base := e.base(c)
	labels := maps.Clone(nonNil(base.Labels))
	maps.Copy(labels, c.Spec.Labels)
	i := &driver.Info{
		Config: c.Spec.Log.Options, ContainerID: c.ID, ContainerName: "/" + c.Spec.Name, ContainerImageID: c.Spec.ImageID, ContainerImageName: c.Spec.Image,
		ContainerCreated: c.Created, ContainerEnv: slices.Concat(base.Env, c.Spec.Process.Env), ContainerLabels: labels,
		LogPath: e.LogDir(c.ID), DaemonName: "stack",
	}
	if len(c.Args) > 0 {
		i.ContainerEntrypoint, i.ContainerArgs = c.Args[0], c.Args[1:]
	}
	return i
}

// LogDetails is what a container's logging options say about each of its lines, for
// "logs --details": labels and variables that they name, and the tag, as
// "KEY=VALUE,…". Docker Docs, "Customize log driver output".
func (e *Engine) LogDetails(c *Container) (string, error) {
	if len(c.Spec.Log.Options) == 0 {
		return "", nil
	}
	info := e.logInfo(c)
	details, err := info.Attributes(nil)
	if err != nil {
		return "", fmt.Errorf("cannot use the logging options of container %s: %w", c.Spec.Name, err)
	}
	tag, err := info.Tag("")
	if err != nil {
		return "", fmt.Errorf("cannot use logging option tag of container %s: %w", c.Spec.Name, err)
	}
	if tag != "" {
		details["tag"] = tag
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(details)) {
		out = append(out, url.QueryEscape(key)+"="+url.QueryEscape(details[key]))
	}
	return strings.Join(out, ","), nil
}
