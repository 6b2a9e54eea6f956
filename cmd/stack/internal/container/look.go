package container

import (
	"github.com/spf13/pflag"
)

// formerTime accepts the former name of --timeout.
func formerTime(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "time" {
		name = "timeout"
	}
	return pflag.NormalizedName(name)
}
