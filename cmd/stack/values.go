package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/engine"
)

// words are the values of a flag that has few, with what they mean.
func words(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

// flagWords complete flags whose values are the same for all commands.
var flagWords = map[string]cobra.CompletionFunc{
	"cgroupns":    words("host", "private"),
	"driver":      words("bridge", "host", "ipvlan", "macvlan", "none"),
	"ipc":         words("host", "none", "private", "shareable"),
	"log-driver":  words("fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"),
	"pid":         words("host"),
	"protocol":    words("tcp", "udp"),
	"restart":     words("no\tStays down", "always\tAfter each end, and a boot", "on-failure\tAfter an exit code that is not 0", "unless-stopped\tAs always, but not after a stop"),
	"rmi":         words("all\tAll images of the services", "local\tThose that were built without a name of their own"),
	"signal":      words("SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTERM", "SIGUSR1", "SIGUSR2"),
	"status":      words("created", "dead", "exited", "paused", "removing", "restarting", "running"),
	"stop-signal": words("SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"),
	"type":        words("container", "image", "network", "volume"),
	"userns":      words("auto\tA range of its own", "host\tThe host's", "keep-id\tThe user who owns the directory", "nomap\tNobody of the host"),
	"uts":         words("host"),
}

// filterKeys are the keys of --filter, by command.
var filterKeys = map[string][]string{
	"container ls":    {"ancestor", "before", "exited", "expose", "health", "id", "label", "name", "network", "project", "publish", "service", "since", "status", "volume"},
	"container prune": {"label", "label!", "until"},
	"image ls":        {"before", "dangling", "label", "label!", "reference", "since", "until"},
	"image prune":     {"dangling", "label", "label!", "until"},
	"network ls":      {"dangling", "driver", "id", "label", "name", "scope", "type"},
	"network prune":   {"label", "label!", "until"},
	"ps":              {"status"},
	"ls":              {"name"},
	"secret ls":       {"id", "label", "name"},
	"configs ls":      {"id", "label", "name"},
	"system events":   {"container", "event", "image", "label", "network", "type", "volume"},
	"system prune":    {"label", "label!", "until"},
	"volume ls":       {"dangling", "driver", "label", "name"},
	"volume prune":    {"all", "label", "label!"},
}

// filterValues are those of keys that have few.
var filterValues = map[string][]string{
	"dangling": {"false", "true"},
	"health":   {"healthy", "none", "starting", "unhealthy"},
	"status":   {"created", "dead", "exited", "paused", "removing", "restarting", "running"},
	"type":     {"builtin", "custom"},
}

// registerValues completes the values of all commands' flags.
func registerValues(a *cli.App, root *cobra.Command) {
	byName := maps.Clone(flagWords)
	byName["network"] = completeNetworks(a)
	byName["volumes-from"] = a.CompleteContainersThat(func(engine.Container) bool { return true })
	byName["scale"] = suffixed(a.CompleteServices, "=")
	byName["exit-code-from"], byName["attach"], byName["no-attach"] = a.CompleteServices, a.CompleteServices, a.CompleteServices
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			complete := byName[f.Name]
			switch {
			case f.Name == "pull" && f.Value.Type() == "string":
				complete = words("always\tAlso what is there", "missing\tWhat is not there", "never\tNothing", "build\tBuilds what can be built")
			case f.Name == "attach" && cmd.Name() != "up", f.Name == "network" && !takesNetwork(cmd), f.Name == "driver" && cmd.Name() != "create",
				f.Name == "type" && cmd.Name() != "inspect":
				complete = nil
			case f.Name == "filter":
				complete = filters(wordOf(cmd))
			case f.Name == "format":
				complete = words("json", "table")
			}
			if complete != nil {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // it fails where there is one already
			}
		})
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

// takesNetwork tells whether a command's --network is a container's.
func takesNetwork(cmd *cobra.Command) bool { return strings.Contains(cmd.Use, "IMAGE") }

// wordOf is the command behind the program's name, as it is called among the engine's.
func wordOf(cmd *cobra.Command) string {
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	if _, engine := cmd.Annotations[engineAnnotation]; engine {
		return cli.EngineWords[path]
	}
	return path
}

// filters completes KEY=, and VALUE behind it.
func filters(of string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		if key, _, ok := strings.Cut(word, "="); ok {
			var out []string
			for _, v := range filterValues[key] {
				out = append(out, key+"="+v)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, k := range filterKeys[of] {
			out = append(out, k+"=")
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// suffixed is another completion with something behind each word, and no blank.
func suffixed(complete cobra.CompletionFunc, suffix string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		out, _ := complete(cmd, nil, word)
		for i := range out {
			out[i] += suffix
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// completeNetworks offers what a container's --network takes.
func completeNetworks(a *cli.App) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		out := []string{"bridge\tThe default network", "host\tThe host's own", "none\tNo network"}
		ctx := context.Background()
		v, err := a.API(ctx)
		if err != nil {
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := v.Networks(ctx)
		if err != nil {
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		for _, n := range all {
			if !slices.ContainsFunc(out, func(line string) bool { return strings.HasPrefix(line, n.Name+"\t") }) {
				out = append(out, n.Name+"\t"+n.Driver)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
