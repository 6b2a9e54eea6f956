package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
)

// program is what the command line is: its own, or one that people know from Docker.
type program string

const (
	stackItself   program = "stack"
	stackCompose  program = "stack compose"  // the verbs of a project, also where there is none
	docker        program = "docker"         // the verbs of the engine, also inside a project
	dockerCompose program = "docker compose" // stackCompose under docker's name
)

// engineAnnotation marks commands that are docker's and not docker compose's.
const engineAnnotation = "engine"

// engineVerb makes a verb of the top level of one of a group of objects.
func engineVerb(a *cli.App, name string) *cobra.Command {
	noun, verb, _ := strings.Cut(cli.EngineWords[name], " ")
	for _, v := range verbTable() {
		if v.Name != noun || v.Group != groupObjects {
			continue
		}
		before := a.Subcommand
		a.Subcommand = verb
		group := v.Build(a)
		a.Subcommand = before
		for _, cmd := range group.Commands() {
			if cmd.Name() == verb {
				group.RemoveCommand(cmd)
				cmd.Use = name + strings.TrimPrefix(cmd.Use, verb)
				cmd.Aliases = nil
				cmd.Annotations = map[string]string{engineAnnotation: ""}
				return cmd
			}
		}
	}
	panic(fmt.Sprintf("no command %q", cli.EngineWords[name])) // a test builds all of them
}

// outside is engineVerb where somebody may have meant a project that is not there.
func outside(a *cli.App, name string) *cobra.Command {
	cmd := engineVerb(a, name)
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		err := check(cmd, args)
		if err != nil && len(args) == 0 {
			err = fmt.Errorf("%w\n\nThere is no compose.yaml here or in any directory above: go to a project's directory, or name its file with -f", err)
		}
		return err
	}
	return cmd
}

// newComposeStub stands for the word compose in help and completion: understand takes it
// away before anything is built.
func newComposeStub(*cli.App) *cobra.Command {
	return &cobra.Command{
		Use: "compose COMMAND", Short: "Docker Compose's commands, also where there is no project", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}

// understand finds out which program a command line is for, by the name under which it
// was called and a first word that chooses another one, which is taken away.
func understand(name string, args []string) (program, []string) {
	is := stackItself
	switch name {
	case "docker":
		is = docker
	case "docker-compose":
		return dockerCompose, args
	}
	from := 0
	if completes(args) {
		from = 1
	}
	_, words, err := is.leading(args[from:])
	if err != nil || len(words) == 0 || words[0] != "compose" {
		return is, args
	}
	at := len(args) - len(words)
	if from == 1 && at == len(args)-1 {
		return is, args // the word itself is being completed
	}
	rest := append([]string{}, args[:at]...)
	if is == docker {
		return dockerCompose, append(rest[:from], args[at+1:]...) // docker's own flags say nothing to it
	}
	return stackCompose, append(rest, args[at+1:]...)
}

// completes tells whether a command line is to be completed, which is behind that word.
func completes(args []string) bool {
	return len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd)
}

// leading reads the flags before the verb, with which the rest begins.
func (is program) leading(args []string) (given cli.GlobalOptions, rest []string, err error) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SetInterspersed(false)
	fs.Usage = func() {}
	if is == docker {
		addGlobalFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &given) // as by default
		addDockerFlags(fs, &dockerOptions{})
	} else {
		addGlobalFlags(fs, &given)
		fs.BoolVar(&given.DryRun, "dry-run", false, "")
	}
	err = fs.Parse(args)
	return given, fs.Args(), err
}

// verbs are those that a program has.
func (is program) verbs() []cli.Verb {
	all := verbTable()
	switch is {
	case stackItself:
		return all
	case docker:
		all = slices.DeleteFunc(all, func(v cli.Verb) bool {
			return v.Group == groupProject && cli.EngineWords[v.Name] == "" && v.Name != "compose"
		})
		return append(all,
			cli.Verb{Name: "buildx", Group: groupObjects, Build: image.NewBuildxCmd},
			cli.Verb{Name: "context", Group: groupObjects, Build: newContextCmd},
		)
	}
	return slices.DeleteFunc(all, func(v cli.Verb) bool { return v.Group != groupProject && v.Name != "version" || v.Name == "compose" })
}

// build makes the command of a verb: what people mean by it.
func (is program) build(a *cli.App, v cli.Verb) *cobra.Command {
	engine := cli.EngineWords[v.Name] != ""
	switch {
	case is == docker && v.Name == "version":
		return newDockerVersionCmd(a)
	case v.Build == nil, is == docker && engine:
		return engineVerb(a, v.Name)
	case engine && v.Name != "run" && !a.InsideProject(): // run looks by itself
		return outside(a, v.Name)
	}
	return v.Build(a)
}
