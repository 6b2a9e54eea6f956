package container

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Exposed lists the ports that the image or the user says to be listened on, the
// published ones included, as "80/tcp".
func (c *Record) Exposed() []string {
	out := slices.Clone(c.Spec.Expose)
	if c.Base != nil {
		out = append(out, c.Base.ExposedPorts...)
	}
	for _, p := range c.Spec.Network.Ports {
		out = append(out, fmt.Sprintf("%d/%s", p.ContainerPort, p.Transport()))
	}
	slices.SortFunc(out, compareExposed)
	return slices.Compact(out)
}

// compareExposed sorts by number.
func compareExposed(a, b string) int {
	number := func(s string) int {
		n, _, _ := strings.Cut(s, "/")
		i, _ := strconv.Atoi(n)
		return i
	}
	if d := number(a) - number(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}
