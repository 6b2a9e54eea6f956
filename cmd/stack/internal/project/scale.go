package project

import (
	"fmt"
	"strconv"
	"strings"
)

// parseScale reads SERVICE=NUM.
func parseScale(args []string) (map[string]int, error) {
	if len(args) == 0 {
		return nil, nil
	}
	out := map[string]int{}
	for _, arg := range args {
		name, number, ok := strings.Cut(arg, "=")
		n, err := strconv.Atoi(number)
		if !ok || name == "" || err != nil || n < 0 {
			return nil, fmt.Errorf("cannot read the scale %q; write SERVICE=NUM, such as web=3", arg)
		}
		out[name] = n
	}
	return out, nil
}
