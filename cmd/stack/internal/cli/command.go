package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose/spec"
)

// Group makes a command that only has subcommands.
func Group(name, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name + " COMMAND",
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return UnknownVerb(cmd, args[0])
		},
	}
	for _, sub := range subcommands {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

// RequireArgs is cobra.MinimumNArgs with docker's words.
func RequireArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argumentError(cmd, "at least", n)
	}
}

func ExactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argumentError(cmd, "exactly", n)
	}
}

func argumentError(cmd *cobra.Command, how string, n int) error {
	noun := "argument"
	if n > 1 {
		noun = "arguments"
	}
	return fmt.Errorf("%q requires %s %d %s.\nSee '%s --help'.\n\nUsage:  %s\n\n%s",
		cmd.CommandPath(), how, n, noun, cmd.CommandPath(), cmd.UseLine(), cmd.Short)
}

// Verb is one command of the top level. Only the one that is asked for is
// built: the flags of all of them cost more time than "stack version" may take.
type Verb struct {
	Name    string
	Aliases []string
	Group   string
	Build   func(*App) *cobra.Command
}

// elsewhere says where the verbs of docker and docker compose are that have another
// name here.
var elsewhere = map[string]string{
	"alpha":  `"stack plan --graph" draws what waits for what`,
	"bridge": "stack runs the project itself and makes no files for other systems",
	"search": "stack asks no registry for what it has; look there, and pull an image by its name",
}

// UnknownVerb says what was probably meant.
func UnknownVerb(parent *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command: %q", parent.CommandPath()+" "+name)
	if right := elsewhere[name]; right != "" && !parent.HasParent() {
		return fmt.Errorf("%s; %s", text, right)
	}
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := spec.Nearest(name, names); near != "" {
		text += fmt.Sprintf("; did you mean %q?", parent.CommandPath()+" "+near)
	}
	return fmt.Errorf("%s\n\nRun '%s --help' for the list of commands", text, parent.CommandPath())
}
