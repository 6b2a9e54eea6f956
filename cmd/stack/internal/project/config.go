package project

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/spec"
)

type configOptions struct {
	Services            []string // arguments
	Environment         bool
	Explain             string
	Format              string
	Hash                string
	Images              bool
	LockImageDigests    bool
	Models              bool
	Networks            bool
	NoConsistency       bool
	NoEnvResolution     bool
	NoInterpolate       bool
	NoNormalize         bool
	NoPathResolution    bool
	Output              string
	Profiles            bool
	Quiet               bool
	ResolveImageDigests bool
	ServiceNames        bool
	Variables           bool
	Volumes             bool
}

func NewConfigCmd(a *cli.App, runF func(context.Context, *cli.App, *configOptions) error) *cobra.Command {
	if runF == nil {
		runF = runConfig
	}
	o := &configOptions{}
	cmd := &cobra.Command{
		Use:     "config [OPTIONS] [SERVICE...]",
		Aliases: []string{"convert"},
		Short:   "Parse, resolve and render compose file in canonical format",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			if o.LockImageDigests {
				o.ResolveImageDigests = true
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.Environment, "environment", false, "Print environment used for interpolation.")
	f.StringVar(&o.Explain, "explain", "", "Print where a value of the model comes from, such as web.environment.URL")
	f.StringVar(&o.Format, "format", "", "Format the output. Values: [yaml | json]")
	f.StringVar(&o.Hash, "hash", "", "Print the service config hash, one per line.")
	f.BoolVar(&o.Images, "images", false, "Print the image names, one per line.")
	f.BoolVar(&o.LockImageDigests, "lock-image-digests", false, "Produces an override file with image digests")
	f.BoolVar(&o.Models, "models", false, "Print the model names, one per line.")
	f.BoolVar(&o.Networks, "networks", false, "Print the network names, one per line.")
	f.BoolVar(&o.NoConsistency, "no-consistency", false, "Don't check model consistency - warning: may produce invalid Compose output")
	f.BoolVar(&o.NoEnvResolution, "no-env-resolution", false, "Don't resolve service env files")
	f.BoolVar(&o.NoInterpolate, "no-interpolate", false, "Don't interpolate environment variables")
	f.BoolVar(&o.NoNormalize, "no-normalize", false, "Don't normalize compose model")
	f.BoolVar(&o.NoPathResolution, "no-path-resolution", false, "Don't resolve file paths")
	f.StringVarP(&o.Output, "output", "o", "", "Save to file (default to stdout)")
	f.BoolVar(&o.Profiles, "profiles", false, "Print the profile names, one per line.")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only validate the configuration, don't print anything")
	f.BoolVar(&o.ResolveImageDigests, "resolve-image-digests", false, "Pin image tags to digests")
	f.BoolVar(&o.ServiceNames, "services", false, "Print the service names, one per line.")
	f.BoolVar(&o.Variables, "variables", false, "Print model variables and default values.")
	f.BoolVar(&o.Volumes, "volumes", false, "Print the volume names, one per line.")
	return cmd
}

func runConfig(ctx context.Context, a *cli.App, o *configOptions) error {
	lo, err := a.LoadOptions()
	if err != nil {
		return err
	}
	lo.Services, lo.Jobs = o.Services, len(o.Services) > 0
	lo.NoInterpolate, lo.NoNormalize, lo.NoPathResolution = o.NoInterpolate, o.NoNormalize, o.NoPathResolution
	lo.NoConsistency, lo.NoEnvResolution = o.NoConsistency, o.NoEnvResolution
	if a.Global.Compatibility { // as docker compose
		lo.NoNormalize = true
	}
	if len(o.Services) > 0 {
		switch {
		case o.NoInterpolate:
			a.Warn("service filtering is not applied when --no-interpolate is set, the full model will be rendered")
		case o.Variables:
			a.Warn("service filtering is not applied when --variables is set, variables from the full model will be rendered")
		}
	}
	switch {
	case o.Explain != "":
		return explain(ctx, a, lo, o)
	case o.Variables:
		return printVariables(ctx, a, lo, o.Format)
	case o.Quiet, o.ServiceNames, o.Volumes, o.Networks, o.Models, o.Profiles, o.Images, o.Environment, o.Hash != "":
		return printParts(ctx, a, lo, o)
	}
	c := load.ConfigOptions{Format: o.Format, LockImageDigests: o.LockImageDigests}
	if o.ResolveImageDigests {
		c.ResolveDigest = localDigest(a)
	}
	out, warnings, err := load.Config(ctx, lo, c)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.Warn("%s", w)
	}
	if o.Output != "" {
		if err := os.WriteFile(o.Output, out, 0o666); err != nil {
			return fmt.Errorf("cannot save the configuration: %w", err)
		}
		return nil
	}
	_, err = a.Out.Write(out)
	return err
}

// explain prints where the values at and below a path come from.
func explain(ctx context.Context, a *cli.App, lo load.Options, o *configOptions) error {
	if o.NoInterpolate {
		return errors.New("--explain tells where variables come from, which --no-interpolate leaves out; give one of them")
	}
	all, warnings, err := load.Explain(ctx, lo, o.Explain)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.Warn("%s", w)
	}
	switch o.Format {
	case "json":
		return format.JSON(a.Out, all, "  ")
	case "", "yaml":
		for _, e := range all {
			fmt.Fprint(a.Out, e)
		}
		return nil
	}
	return fmt.Errorf("unknown format %q for --explain; use json, or none", o.Format)
}

// printParts prints one kind of name, one per line, or with --quiet nothing.
func printParts(ctx context.Context, a *cli.App, lo load.Options, o *configOptions) error {
	if o.Hash != "" && o.Hash != "*" && len(o.Services) == 0 {
		lo.Services, lo.NoDeps = strings.Split(o.Hash, ","), true // the faults of others do not count
	}
	lo.OnlyServices = len(o.Services) > 0
	if o.NoInterpolate && (o.ServiceNames || o.Quiet) {
		return printUninterpolated(ctx, a, lo, o)
	}
	if o.Hash != "" {
		lo.NoNormalize = false // a hash is that of what runs
	}
	l, err := load.Load(ctx, lo)
	if err != nil {
		return err
	}
	for _, w := range l.Warnings {
		a.Warn("%s", w)
	}
	var names []string
	switch {
	case o.ServiceNames:
		names = l.Project.ServiceNames()
	case o.Volumes:
		names = l.Project.VolumeNames()
	case o.Networks:
		names = l.Project.NetworkNames()
	case o.Profiles:
		names = load.ProfileNames(l.Project)
	case o.Environment:
		names = load.EnvironmentLines(l.Project)
	case o.Images:
		names = imageNames(l.Project, a.Separator())
	case o.Hash != "":
		if names, err = hashes(ctx, a, l, o); err != nil {
			return err
		}
	case o.Models:
		for _, m := range l.Project.Models {
			names = append(names, m.Model)
		}
	default: // --quiet: what is wrong with the specs counts too, where they could run
		if lo.NoNormalize {
			return nil
		}
		warnings, err := spec.Validate(l.Project, spec.HostFacts{Locate: l.Locate, Separator: a.Separator(), Touched: l.Touched})
		for _, w := range warnings {
			a.Warn("%s", w)
		}
		return err
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		fmt.Fprintln(a.Out, n)
	}
	return nil
}

// imageNames are the images of services, of what runs before them, and of jobs.
func imageNames(p *types.Project, separator string) []string {
	var names []string
	for _, s := range spec.WithJobs(p).Services {
		names = append(names, spec.ImageName(p.Name, s, separator))
		for _, hook := range s.PreStart {
			if hook.Image != "" {
				names = append(names, hook.Image)
			}
		}
	}
	return names
}

// printUninterpolated prints the names of services, or with --quiet nothing, whose
// attributes may be of no use before variables are substituted.
func printUninterpolated(ctx context.Context, a *cli.App, lo load.Options, o *configOptions) error {
	model, warnings, err := load.Model(ctx, lo)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.Warn("%s", w)
	}
	if o.Quiet {
		return nil
	}
	services, _ := model["services"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		fmt.Fprintln(a.Out, name)
	}
	return nil
}

func hashes(ctx context.Context, a *cli.App, l *load.Loaded, o *configOptions) ([]string, error) {
	host, err := a.HostFacts(ctx, l)
	if err != nil {
		return nil, err
	}
	// Those that are scaled to nothing have a hash, too.
	scale := map[string]int{}
	for name, s := range l.Project.Services {
		if s.GetScale() == 0 {
			scale[name] = 1
		}
	}
	d, _, err := a.Desired(l, host, scale)
	if err != nil {
		return nil, err
	}
	var wanted []string
	if o.Hash != "*" {
		wanted = strings.Split(o.Hash, ",")
	}
	known := slices.Sorted(maps.Keys(d.Services))
	for _, name := range wanted {
		if d.Services[name] == nil {
			return nil, cli.NoSuchService("", name, known)
		}
	}
	var out []string
	for _, name := range known {
		replicas := d.Services[name].Replicas
		if len(replicas) > 0 && (len(wanted) == 0 || slices.Contains(wanted, name)) {
			out = append(out, name+" "+replicas[0].Hash)
		}
	}
	return out, nil
}

func printVariables(ctx context.Context, a *cli.App, lo load.Options, as string) error {
	variables, err := load.Variables(ctx, lo)
	if err != nil {
		return err
	}
	type variable struct { // as docker compose has it
		Name          string
		DefaultValue  string `yaml:"defaultvalue"`
		PresenceValue string `yaml:"presencevalue"`
		Required      bool
	}
	all := map[string]variable{}
	for _, v := range variables {
		all[v.Name] = variable{v.Name, v.Default, v.Alternate, v.Required}
	}
	switch as {
	case "json":
		return format.JSON(a.Out, all, "    ")
	case "yaml":
		e := yaml.NewEncoder(a.Out)
		e.SetIndent(4)
		return errors.Join(e.Encode(all), e.Close())
	}
	rows := make([][]string, len(variables))
	for i, v := range variables {
		rows[i] = []string{v.Name, strconv.FormatBool(v.Required), v.Default, v.Alternate}
	}
	return format.Columns(a.Out, rows, "NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE")
}

// localDigest finds the digest of an image by what is stored here.
func localDigest(a *cli.App) func(ctx context.Context, ref string) (string, error) {
	return func(ctx context.Context, ref string) (string, error) {
		v, err := a.API(ctx)
		if err != nil {
			return "", err
		}
		img, err := v.Image(ctx, ref, "")
		if err != nil {
			return "", err
		}
		if img.Manifest == "" {
			return "", errors.New("the image has no manifest")
		}
		return img.Manifest, nil
	}
}
