package cli

import "github.com/spf13/pflag"

// Below are the flags that several verbs have word for word.

// FormatFlag defines --format.
func FormatFlag(f *pflag.FlagSet, to *string) { f.StringVar(to, "format", "", FormatHelp) }

// DetachKeysFlag defines --detach-keys.
func DetachKeysFlag(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "detach-keys", "", "Override the key sequence for detaching a container")
}

// SigProxyFlag defines --sig-proxy.
func SigProxyFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "sig-proxy", true, "Proxy all received signals to the process")
}

// NoStdinFlag defines --no-stdin.
func NoStdinFlag(f *pflag.FlagSet, to *bool) { f.BoolVar(to, "no-stdin", false, "Do not attach STDIN") }

// NoTruncFlag defines --no-trunc.
func NoTruncFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "no-trunc", false, "Don't truncate output")
}

// IndexFlag defines --index.
func IndexFlag(f *pflag.FlagSet, to *int) {
	f.IntVar(to, "index", 0, "Index of the container if service has multiple replicas")
}

// EnvFlag defines --env.
func EnvFlag(f *pflag.FlagSet, to *[]string) {
	f.StringArrayVarP(to, "env", "e", nil, "Set environment variables")
}

// WorkdirFlag defines --workdir.
func WorkdirFlag(f *pflag.FlagSet, to *string) {
	f.StringVarP(to, "workdir", "w", "", "Working directory inside the container")
}

// NoTTYFlag defines --no-tty.
func NoTTYFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVarP(to, "no-tty", "T", false, "Disable pseudo-TTY allocation (default: auto-detected)")
}

// DetachFlag defines --detach.
func DetachFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVarP(to, "detach", "d", false, "Run container in background and print container ID")
}

// FollowFlag defines --follow.
func FollowFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVarP(to, "follow", "f", false, "Follow log output")
}

// TimestampsFlag defines --timestamps.
func TimestampsFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVarP(to, "timestamps", "t", false, "Show timestamps")
}

// NoStreamFlag defines --no-stream.
func NoStreamFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "no-stream", false, "Disable streaming stats and only pull the first result")
}

// AllContainersFlag defines --all.
func AllContainersFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVarP(to, "all", "a", false, "Show all containers (default shows just running)")
}

// QuietTransferFlag defines --quiet.
func QuietTransferFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVarP(to, "quiet", "q", false, "Suppress verbose output")
}

// NoDepsFlag defines --no-deps.
func NoDepsFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "no-deps", false, "Don't start linked services")
}

// RemoveOrphansFlag defines --remove-orphans.
func RemoveOrphansFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "remove-orphans", false, "Remove containers for services not defined in the Compose file")
}

// ScaleFlag defines --scale.
func ScaleFlag(f *pflag.FlagSet, to *[]string) {
	f.StringArrayVar(to, "scale", nil, "Scale SERVICE to NUM instances. Overrides the `scale` setting in the Compose file if present.")
}

// QuietPullFlag defines --quiet-pull.
func QuietPullFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "quiet-pull", false, "Pull without printing progress information")
}

// ForceRecreateFlag defines --force-recreate.
func ForceRecreateFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "force-recreate", false, "Recreate containers even if their configuration and image haven't changed")
}

// NoRecreateFlag defines --no-recreate.
func NoRecreateFlag(f *pflag.FlagSet, to *bool) {
	f.BoolVar(to, "no-recreate", false, "If containers already exist, don't recreate them. Incompatible with --force-recreate.")
}

// SinceEventFlag defines --since.
func SinceEventFlag(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "since", "", "Show all events created since timestamp")
}

// UntilEventFlag defines --until.
func UntilEventFlag(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "until", "", "Stream events until this timestamp")
}
