package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
)

// What scripts that ask for docker's version are told: the release whose command line
// this one follows, and the API version of that.
const (
	dockerRelease    = "29.0.0"
	dockerAPIVersion = "1.52"
	composeRelease   = "5.6.0"
)

// dockerOptions are the flags that stand before docker's verbs.
type dockerOptions struct {
	Config, Context, LogLevel      string
	Hosts                          []string
	Debug, TLS, TLSVerify, Version bool
	TLSCACert, TLSCert, TLSKey     string
}

func addDockerFlags(f *pflag.FlagSet, o *dockerOptions) {
	f.StringVar(&o.Config, "config", "", "Location of client config files")
	f.StringVarP(&o.Context, "context", "c", "", "Name of the context to use")
	f.BoolVarP(&o.Debug, "debug", "D", false, "Enable debug mode")
	f.StringArrayVarP(&o.Hosts, "host", "H", nil, "Daemon socket to connect to")
	f.StringVarP(&o.LogLevel, "log-level", "l", "info", `Set the logging level ("debug", "info", "warn", "error", "fatal")`)
	f.BoolVar(&o.TLS, "tls", false, "Use TLS; implied by --tlsverify")
	f.StringVar(&o.TLSCACert, "tlscacert", "", "Trust certs signed only by this CA")
	f.StringVar(&o.TLSCert, "tlscert", "", "Path to TLS certificate file")
	f.StringVar(&o.TLSKey, "tlskey", "", "Path to TLS key file")
	f.BoolVar(&o.TLSVerify, "tlsverify", false, "Use TLS and verify the remote")
	f.BoolVarP(&o.Version, "version", "v", false, "Print version information and quit")
}

// check refuses what would act elsewhere than on this machine. A local socket is where
// docker's own engine would be asked; here there is none between.
func (o *dockerOptions) check(a *cli.App) error {
	host := a.Getenv("DOCKER_HOST")
	from := "DOCKER_HOST"
	if len(o.Hosts) > 0 {
		host, from = o.Hosts[len(o.Hosts)-1], "--host"
	}
	if host != "" && !strings.HasPrefix(host, "unix://") {
		return fmt.Errorf("cannot ask %s (%s): this docker is stack, which works on its own machine only; run it there, or call Docker's own program", host, from)
	}
	name := a.Getenv("DOCKER_CONTEXT")
	if o.Context != "" {
		name = o.Context
	}
	return checkContext(name)
}

func checkContext(name string) error {
	if name != "" && name != "default" {
		return fmt.Errorf("context %q: context not found; this docker is stack, whose only context is \"default\", this machine", name)
	}
	return nil
}

// oneContext is a row of "docker context ls".
type oneContext struct {
	Current        bool
	Description    string
	DockerEndpoint string
	Error          string
	Name           string
}

var contextLayout = format.Layout{
	Table:   "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
	Quiet:   "{{.Name}}",
	Headers: map[string]string{"Name": "NAME", "Current": "", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR"},
}

// newContextCmd knows the one context.
func newContextCmd(a *cli.App) *cobra.Command {
	only := oneContext{Name: "default", Description: "This machine", DockerEndpoint: "none: stack has no daemon", Current: true}
	var list cli.ListFlags
	ls := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List contexts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return format.Write(a.Out, contextLayout, format.Options{Format: list.Format, Quiet: list.Quiet}, []oneContext{only})
		},
	}
	cli.FormatFlag(ls.Flags(), &list.Format)
	ls.Flags().BoolVarP(&list.Quiet, "quiet", "q", false, "Only show context names")
	show := &cobra.Command{
		Use: "show", Short: "Print the name of the current context", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(a.Out, only.Name) },
	}
	use := &cobra.Command{
		Use: "use CONTEXT", Short: "Set the current docker context", Args: cli.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkContext(args[0]); err != nil {
				return err
			}
			fmt.Fprintln(a.Out, args[0])
			return nil
		},
	}
	var template string
	inspect := &cobra.Command{
		Use: "inspect [OPTIONS] [CONTEXT] [CONTEXT...]", Short: "Display detailed information on one or more contexts", Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				if err := checkContext(name); err != nil {
					return err
				}
			}
			return format.Inspected(a.Out, template, []any{map[string]any{
				"Name": only.Name, "Metadata": map[string]any{"Description": only.Description},
				"Endpoints":   map[string]any{"docker": map[string]any{"Host": "", "SkipTLSVerify": false}},
				"TLSMaterial": map[string]any{}, "Storage": map[string]any{"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"},
			}})
		},
	}
	cli.FormatFlag(inspect.Flags(), &template)
	return cli.Group("context", "Manage contexts", inspect, ls, show, use)
}

// dockerVersion is what "docker version" tells. Client and server are one program here.
type dockerVersion struct {
	Client dockerPart
	Server dockerPart
}

type dockerPart struct {
	Platform      struct{ Name string }
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	BuildTime     string
	Context       string
}

func newDockerVersionCmd(a *cli.App) *cobra.Command {
	var template string
	cmd := &cobra.Command{
		Use: "version [OPTIONS]", Short: "Show the Docker version information", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			part := dockerPart{
				Version: dockerRelease, APIVersion: dockerAPIVersion, MinAPIVersion: "1.44", GitCommit: "stack-" + cli.Version,
				GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, Context: "default",
			}
			part.Platform.Name = "stack " + cli.Version
			if template != "" {
				return format.Object(a.Out, template, dockerVersion{part, part})
			}
			for _, side := range []string{"Client", "Server"} {
				fmt.Fprintf(a.Out, "%s: %s\n Version:           %s\n API version:       %s\n Go version:        %s\n Git commit:        %s\n OS/Arch:           %s/%s\n Context:           %s\n",
					side, part.Platform.Name, part.Version, part.APIVersion, part.GoVersion, part.GitCommit, part.Os, part.Arch, part.Context)
				if side == "Client" {
					fmt.Fprintln(a.Out)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&template, "format", "f", "", cli.FormatHelp)
	return cmd
}

// printDockerVersion is what --version says, which scripts cut into words.
func printDockerVersion(a *cli.App, is program) {
	if is == docker {
		fmt.Fprintf(a.Out, "Docker version %s, build stack-%s\n", dockerRelease, cli.Version)
		return
	}
	fmt.Fprintf(a.Out, "Docker Compose version v%s\n", composeRelease)
}
