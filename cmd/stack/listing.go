package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
)

// usualFormat is the template that the user has set for a list in Docker's
// configuration file, "" where there is none: psFormat or imagesFormat
// (https://docs.docker.com/reference/cli/docker/#configuration-files).
func (a *app) usualFormat(key string) string {
	dir := a.getenv("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(a.getenv("HOME"), ".docker")
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return ""
	}
	var formats struct{ PsFormat, ImagesFormat string }
	if err := json.Unmarshal(data, &formats); err != nil {
		a.warn("cannot read the list formats in %s: %v", filepath.Join(dir, "config.json"), err)
	}
	if key == "psFormat" {
		return formats.PsFormat
	}
	return formats.ImagesFormat
}

// listFormat is --format, else the usual one, which --quiet does not use.
func (a *app) listFormat(given string, quiet bool, key string) string {
	if given != "" || quiet {
		return given
	}
	return a.usualFormat(key)
}

// listFlags are the flags of the verbs that list docker's objects.
type listFlags struct {
	Filter []string
	Format string
	Quiet  bool
}

// add defines the flags; filter and quiet say what they do here.
func (l *listFlags) add(f *pflag.FlagSet, filter, quiet string) {
	f.StringArrayVarP(&l.Filter, "filter", "f", nil, filter)
	f.StringVar(&l.Format, "format", "", formatHelp)
	f.BoolVarP(&l.Quiet, "quiet", "q", false, quiet)
}
