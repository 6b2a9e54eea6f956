package container

import (
	"context"
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/runspec"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type updateOptions struct {
	Names   []string // arguments
	Changes changes
}

// changes are new limits and a new restart policy of a container. Nil
// stays as it is.
type changes struct {
	BlkioWeight                           *uint16
	CPUPeriod, CPUQuota, CPUShares        *int64 // µs, µs, weight
	CPURealtimePeriod, CPURealtimeRuntime *int64 // µs
	NanoCPUs                              *int64
	CpusetCPUs, CpusetMems                *string
	Memory, MemoryReservation, MemorySwap *int64 // bytes
	PIDs                                  *int64
	Restart                               *engine.Restart
}

// apply changes a spec.
func (ch changes) apply(s *engine.Spec) {
	l := &s.Limits
	set(&l.BlkioWeight, ch.BlkioWeight)
	set(&l.CPUPeriod, ch.CPUPeriod)
	set(&l.CPUQuota, ch.CPUQuota)
	set(&l.CPUShares, ch.CPUShares)
	set(&l.CPURealtimePeriod, ch.CPURealtimePeriod)
	set(&l.CPURealtimeRuntime, ch.CPURealtimeRuntime)
	set(&l.NanoCPUs, ch.NanoCPUs)
	set(&l.CpusetCPUs, ch.CpusetCPUs)
	set(&l.CpusetMems, ch.CpusetMems)
	set(&l.Memory, ch.Memory)
	set(&l.MemoryReservation, ch.MemoryReservation)
	set(&l.MemorySwap, ch.MemorySwap)
	set(&l.PIDs, ch.PIDs)
	set(&s.Restart, ch.Restart)
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func newUpdateCmd(a *cli.App, runF func(context.Context, *cli.App, *updateOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUpdate
	}
	o := &updateOptions{}
	var weight uint16
	numbers := map[string]*int64{}
	texts := map[string]*string{}
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Update configuration of one or more containers",
		Args:  cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Names = args
			f := cmd.Flags()
			number := func(name string) *int64 {
				if f.Changed(name) {
					return numbers[name]
				}
				return nil
			}
			text := func(name string) *string {
				if f.Changed(name) {
					return texts[name]
				}
				return nil
			}
			var err error
			o.Changes, err = readChanges(number, text)
			if f.Changed("blkio-weight") {
				o.Changes.BlkioWeight = &weight
			}
			if err != nil {
				return err
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
	f := cmd.Flags()
	f.Uint16Var(&weight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	for name, help := range map[string]string{
		"cpu-period":     "Limit CPU CFS (Completely Fair Scheduler) period",
		"cpu-quota":      "Limit CPU CFS (Completely Fair Scheduler) quota",
		"cpu-rt-period":  "Limit the CPU real-time period in microseconds",
		"cpu-rt-runtime": "Limit the CPU real-time runtime in microseconds",
		"pids-limit":     "Tune container pids limit (set -1 for unlimited)",
	} {
		numbers[name] = f.Int64(name, 0, help)
	}
	numbers["cpu-shares"] = f.Int64P("cpu-shares", "c", 0, "CPU shares (relative weight)")
	for name, help := range map[string]string{
		"cpus":               "Number of CPUs",
		"cpuset-cpus":        "CPUs in which to allow execution (0-3, 0,1)",
		"cpuset-mems":        "MEMs in which to allow execution (0-3, 0,1)",
		"memory-reservation": "Memory soft limit",
		"memory-swap":        "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
		"restart":            "Restart policy to apply when a container exits",
	} {
		texts[name] = f.String(name, "", help)
	}
	texts["memory"] = f.StringP("memory", "m", "", "Memory limit")
	return cmd
}

func readChanges(number func(string) *int64, text func(string) *string) (changes, error) {
	ch := changes{
		CPUPeriod: number("cpu-period"), CPUQuota: number("cpu-quota"), CPUShares: number("cpu-shares"),
		CPURealtimePeriod: number("cpu-rt-period"), CPURealtimeRuntime: number("cpu-rt-runtime"), PIDs: number("pids-limit"),
		CpusetCPUs: text("cpuset-cpus"), CpusetMems: text("cpuset-mems"),
	}
	for name, to := range map[string]**int64{"memory": &ch.Memory, "memory-reservation": &ch.MemoryReservation, "memory-swap": &ch.MemorySwap} {
		value := text(name)
		switch {
		case value == nil:
		case name == "memory-swap" && *value == "-1":
			*to = new(int64)
			**to = -1
		default:
			n, err := units.RAMInBytes(*value)
			if err != nil {
				return ch, fmt.Errorf("invalid --%s %q: write it like 512m", name, *value)
			}
			*to = &n
		}
	}
	if value := text("cpus"); value != nil {
		n, err := runspec.NanoCPUs(*value)
		if err != nil {
			return ch, fmt.Errorf("invalid --cpus %q: %w", *value, err)
		}
		ch.NanoCPUs = &n
	}
	if value := text("restart"); value != nil {
		r, err := runspec.ParseRestart(*value)
		if err != nil {
			return ch, fmt.Errorf("invalid --restart %q: %w", *value, err)
		}
		ch.Restart = &r
	}
	return ch, nil
}

func runUpdate(ctx context.Context, a *cli.App, o *updateOptions) error {
	if o.Changes == (changes{}) {
		return fmt.Errorf("you must provide one or more flags when using this command")
	}
	return eachContainer(ctx, a, a.Each, o.Names, false, func(v compose.API, c engine.Container) error {
		o.Changes.apply(&c.Spec)
		return v.Update(ctx, c.ID, c.Spec.Limits, c.Spec.Restart)
	})
}
