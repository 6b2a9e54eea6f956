package cli

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
)

// UsualFormat is the template that the user has set for a list in Docker's
// configuration file, "" where there is none: psFormat or imagesFormat
// (https://docs.docker.com/reference/cli/docker/#configuration-files).
func (a *App) UsualFormat(key string) string {
	dir := a.Getenv("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(a.Getenv("HOME"), ".docker")
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return ""
	}
	var formats struct{ PsFormat, ImagesFormat string }
	if err := json.Unmarshal(data, &formats); err != nil {
		a.Warn("cannot read the list formats in %s: %v", filepath.Join(dir, "config.json"), err)
	}
	if key == "psFormat" {
		return formats.PsFormat
	}
	return formats.ImagesFormat
}

// ListFormat is --format, else the usual one, which --quiet does not use.
func (a *App) ListFormat(given string, quiet bool, key string) string {
	if given != "" || quiet {
		return given
	}
	return a.UsualFormat(key)
}

// ListFlags are the flags of the verbs that list docker's objects.
type ListFlags struct {
	Filter []string
	Format string
	Quiet  bool
}

// Add defines the flags; filter and quiet say what they do here.
func (l *ListFlags) Add(f *pflag.FlagSet, filter, quiet string) {
	f.StringArrayVarP(&l.Filter, "filter", "f", nil, filter)
	FormatFlag(f, &l.Format)
	f.BoolVarP(&l.Quiet, "quiet", "q", false, quiet)
}

const FormatHelp = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`
