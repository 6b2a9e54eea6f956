package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

// walk visits all commands.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// TestFlags compares the flags with docker compose's and docker's: a missing
// one breaks scripts.
func TestFlags(t *testing.T) {
	root := newRootCmd(newSession(t, "shop").App, stackItself, nil)
	for command, flags := range map[string]string{
		"":                 "-f --file -p --project-name --project-directory --profile --env-file --ansi --progress --parallel --dry-run --compatibility --all-resources --verbose -v --version --workdir --no-ansi --insecure-registry",
		"up":               "-d --detach --build --no-build --pull --remove-orphans --scale --no-color --no-log-prefix --force-recreate --no-recreate --no-start --abort-on-container-exit --abort-on-container-failure --exit-code-from -t --timeout --timestamps --no-deps --always-recreate-deps -V --renew-anon-volumes --quiet-pull --quiet-build --attach --no-attach --attach-dependencies --wait --wait-timeout -w --watch --menu -y --yes",
		"down":             "--remove-orphans --rmi -t --timeout -v --volumes",
		"ps":               "-a --all --filter --format --no-trunc --orphans -q --quiet --services --status",
		"logs":             "-f --follow --index --no-color --no-log-prefix --since -n --tail -t --timestamps --until",
		"exec":             "-d --detach -e --env --index -i --interactive -T --no-tty --no-TTY --privileged -t --tty -u --user -w --workdir",
		"run":              "--build --cap-add --cap-drop -d --detach --entrypoint -e --env --env-from-file -i --interactive -l --label --name --no-deps -T --no-tty -p --publish --pull -q --quiet --quiet-build --quiet-pull --remove-orphans --rm -P --service-ports -t --tty --use-aliases -u --user -v --volume -w --workdir --volumes --labels",
		"create":           "--build --force-recreate --no-build --no-recreate --pull --quiet-pull --remove-orphans --scale -y --yes",
		"start":            "--wait --wait-timeout",
		"stop":             "-t --timeout",
		"restart":          "--no-deps -t --timeout",
		"kill":             "--remove-orphans -s --signal",
		"rm":               "-a --all -f --force -s --stop -v --volumes",
		"scale":            "--no-deps",
		"attach":           "--detach-keys --index --no-stdin --sig-proxy",
		"wait":             "--down-project",
		"cp":               "--all -a --archive -L --follow-link --index",
		"port":             "--index --protocol",
		"stats":            "-a --all --format --no-stream --no-trunc",
		"events":           "--json --since --until",
		"images":           "--format -q --quiet",
		"volumes":          "--format -q --quiet",
		"config":           "--environment --format --hash --images --lock-image-digests --models --networks --no-consistency --no-env-resolution --no-interpolate --no-normalize --no-path-resolution -o --output --profiles -q --quiet --resolve-image-digests --services --variables --volumes",
		"ls":               "-a --all --filter --format -q --quiet",
		"version":          "-f --format --short",
		"inspect":          "-f --format -s --size --type",
		"container run":    "--add-host --annotation -a --attach --blkio-weight --blkio-weight-device --cap-add --cap-drop --cgroup-parent --cgroupns --cidfile --cpu-count --cpu-percent --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime -c --cpu-shares --cpus --cpuset-cpus --cpuset-mems -d --detach --detach-keys --device --device-cgroup-rule --device-read-bps --device-read-iops --device-write-bps --device-write-iops --dns --dns-option --dns-opt --dns-search --domainname --entrypoint -e --env --env-file --expose --gpus --group-add --health-cmd --health-interval --health-retries --health-start-interval --health-start-period --health-timeout --help -h --hostname --init -i --interactive --io-maxbandwidth --io-maxiops --ip --ip6 --ipc --isolation -l --label --label-file --link --link-local-ip --log-driver --log-opt --mac-address -m --memory --memory-reservation --memory-swap --memory-swappiness --mount --name --network --net --network-alias --no-healthcheck --oom-kill-disable --oom-score-adj --pid --pids-limit --platform --privileged -p --publish -P --publish-all --pull -q --quiet --read-only --restart --rm --runtime --security-opt --shm-size --sig-proxy --stop-signal --stop-timeout --storage-opt --sysctl --tmpfs -t --tty --ulimit --use-api-socket -u --user --userns --uts -v --volume --volume-driver --volumes-from -w --workdir",
		"container ls":     "-a --all -f --filter --format -n --last -l --latest --no-trunc -q --quiet -s --size",
		"container exec":   "-d --detach --detach-keys -e --env --env-file -i --interactive --privileged -t --tty -u --user -w --workdir",
		"container update": "--blkio-weight --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime -c --cpu-shares --cpus --cpuset-cpus --cpuset-mems -m --memory --memory-reservation --memory-swap --pids-limit --restart",
		"container stop":   "-s --signal -t --timeout --time",
		"container rm":     "-f --force -l --link -v --volumes",
		"container start":  "-a --attach --detach-keys -i --interactive --checkpoint --checkpoint-dir",
		"container logs":   "--details -f --follow --since -n --tail -t --timestamps --until",
		"container prune":  "--filter -f --force",
		"image import":     "-c --change -m --message --platform",
		"image load":       "-i --input --platform -q --quiet",
		"image save":       "-o --output --platform",
		"image ls":         "-a --all --digests -f --filter --format --no-trunc -q --quiet --tree",
		"image rm":         "-f --force --no-prune --platform",
		"image history":    "--format -H --human --no-trunc --platform -q --quiet",
		"image prune":      "-a --all --filter -f --force",
		"network create":   "--attachable --aux-address --config-from --config-only -d --driver --gateway --ingress --internal --ip-range --ipam-driver --ipam-opt --ipv4 --ipv6 --label -o --opt --scope --subnet",
		"network connect":  "--alias --driver-opt --gw-priority --ip --ip6 --link --link-local-ip",
		"network ls":       "-f --filter --format --no-trunc -q --quiet",
		"volume create":    "--availability -d --driver --group --label --limit-bytes -o --opt --required-bytes --scope --secret --sharing --topology-preferred --topology-required --type",
		"secret create":    "-l --label",
		"secret ls":        "-f --filter --format -q --quiet",
		"secret inspect":   "-f --format --pretty",
		"configs create":   "-l --label",
		"configs ls":       "-f --filter --format -q --quiet",
		"configs inspect":  "-f --format --pretty",
		"volume cp":        "--pause",
		"volume export":    "-o --output --pause",
		"volume import":    "--devices -f --force",
		"volume rename":    "-f --force",
		"volume ls":        "--cluster -f --filter --format -q --quiet",
		"volume prune":     "-a --all --filter -f --force",
		"system df":        "--format -v --verbose",
		"system prune":     "-a --all --filter -f --force --volumes",
		"system events":    "-f --filter --format --since --until",
		"system info":      "-f --format",
		"plan":             "--scale --no-deps --force-recreate",
	} {
		c, rest, err := root.Find(strings.Fields(command))
		if err != nil || len(rest) > 0 {
			t.Errorf("no command %q", command)
			continue
		}
		for _, flag := range strings.Fields(flags) {
			var f *pflag.Flag
			if name, long := strings.CutPrefix(flag, "--"); long {
				f = c.Flags().Lookup(name)
				if f == nil {
					f = c.PersistentFlags().Lookup(name)
				}
			} else {
				f = c.Flags().ShorthandLookup(flag[1:])
			}
			if f == nil {
				t.Errorf("stack %s has no %s", command, flag)
			}
		}
	}
}

// TestHelp makes sure that every command has a help text and no two flags clash
// (which cobra finds out with a panic).
func TestHelp(t *testing.T) {
	root := newRootCmd(newSession(t, "shop").App, stackItself, nil)
	walk(root, func(c *cobra.Command) {
		c.InitDefaultHelpFlag()
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		if c.UsageString() == "" {
			t.Errorf("%s has no usage", c.CommandPath())
		}
	})
	outside := newRootCmd(newSession(t, t.TempDir()).App, stackItself, []string{"run"})
	walk(outside, func(c *cobra.Command) { c.InitDefaultHelpFlag() })
}

func TestChosenBuildsOneVerb(t *testing.T) {
	for line, want := range map[string]string{
		"ps -a":                        "ps",
		"-f x.yaml -p shop logs -f":    "logs",
		"--dry-run --ansi=never up":    "up",
		"convert":                      "config",
		"":                             "",
		"--help":                       "",
		"help up":                      "",
		"__complete up":                "",
		"nosuch":                       "",
		"--project-directory . exec x": "exec",
	} {
		got := ""
		if v := chosen(new(cli.App), stackItself, verbTable(), strings.Fields(line)); v != nil {
			got = v.Name
		}
		if got != want {
			t.Errorf("%q builds %q, want %q", line, got, want)
		}
	}
}

// Verbs that stack has no use for are told what there is instead.
func TestVerbsThatAreElsewhere(t *testing.T) {
	s := newSession(t, "shop")
	for line, want := range map[string]string{
		"search nginx": "asks no registry",
		"bridge":       "runs the project itself",
		"upp":          `did you mean "stack up"?`,
	} {
		_, said, code := s.do(t, strings.Fields(line)...)
		if code == 0 || !strings.Contains(said, want) || strings.Contains(said, `"stack rm"`) {
			t.Errorf("%s: %d, %q", line, code, said)
		}
	}
}

func TestCompletion(t *testing.T) {
	s := newSession(t, "shop")
	out := s.must(t, "__complete", "logs", "")
	if !strings.HasPrefix(out, "db\nmigrate\nweb\n:4") {
		t.Errorf("completion of a service: %q", out)
	}
	if out := s.must(t, "__complete", "container", "rm", ""); !strings.Contains(out, "box\n") {
		t.Errorf("completion of a container: %q", out)
	}
	if out := s.must(t, "completion", "bash"); !strings.Contains(out, "__start_stack") {
		t.Error("no completion script for bash")
	}
}

func BenchmarkRoot(b *testing.B) {
	a := newApp()
	for b.Loop() {
		newRootCmd(a, stackItself, []string{"version"})
	}
}

func BenchmarkRootAll(b *testing.B) {
	a := newApp()
	for b.Loop() {
		newRootCmd(a, stackItself, nil)
	}
}
