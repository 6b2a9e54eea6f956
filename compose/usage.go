package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stack-run/stack/engine"
)

// Top returns the processes of a container as ps(1) shows them, with the host's
// process IDs, like "docker top".
func (c *Client) Top(ctx context.Context, container string, psArgs []string) ([]string, [][]string, error) {
	r, err := c.find(ctx, container)
	if err != nil {
		return nil, nil, err
	}
	if r.State.Pid == 0 {
		return nil, nil, fmt.Errorf("cannot list processes: container %s is not running", r.Spec.Name)
	}
	pids, err := c.Engine.Processes(r)
	if err != nil {
		return nil, nil, err
	}
	if len(psArgs) == 0 {
		psArgs = []string{"-ef"}
	}
	cmd := exec.CommandContext(ctx, "ps", psArgs...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return processTable(pids)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ps %s failed: %s", strings.Join(psArgs, " "), strings.TrimSpace(stderr.String()))
	}
	return filterPS(string(out), pids)
}

// filterPS keeps the rows of a ps listing whose PID column is one of pids.
func filterPS(out string, pids []int) (titles []string, rows [][]string, err error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	titles = strings.Fields(lines[0])
	pidColumn := slices.Index(titles, "PID")
	if pidColumn < 0 {
		return nil, nil, errors.New("cannot find the PID column in the output of ps; choose a format with PID")
	}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= pidColumn {
			continue
		}
		pid, err := strconv.Atoi(fields[pidColumn])
		if err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if len(fields) > len(titles) {
			last := len(titles) - 1
			fields = append(fields[:last:last], strings.Join(fields[last:], " "))
		}
		rows = append(rows, fields)
	}
	return titles, rows, nil
}

// processTable is for hosts without ps: what /proc says, in the columns of ps -ef
// that can be had cheaply.
func processTable(pids []int) ([]string, [][]string, error) {
	var rows [][]string
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		field := func(name string) string {
			for line := range strings.Lines(string(status)) {
				if rest, ok := strings.CutPrefix(line, name+":"); ok {
					return strings.Fields(rest)[0]
				}
			}
			return "?"
		}
		rows = append(rows, []string{field("Uid"), strconv.Itoa(pid), field("PPid"), strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))})
	}
	return []string{"UID", "PID", "PPID", "CMD"}, rows, nil
}

// Stats calls sample with one row per running container, every second, or once.
func (c *Client) Stats(ctx context.Context, s Selector, stream bool, sample func([]Stats) error) error {
	before := map[string]engine.Usage{}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for round := 0; ; round++ {
		containers, err := c.Containers(ctx, s)
		if err != nil {
			return err
		}
		var rows []Stats
		for _, r := range containers {
			u, err := c.Engine.Usage(&r)
			if err != nil {
				rows = append(rows, Stats{Container: r, Time: time.Now()})
				continue
			}
			rows = append(rows, stats(r, before[r.ID], u))
			before[r.ID] = u
		}
		// CPU use is a difference: the first round only begins it.
		if round > 0 {
			if err := sample(rows); err != nil || !stream {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func stats(r engine.Container, before, now engine.Usage) Stats {
	out := Stats{
		Container: r, Time: now.Time, Memory: now.Memory, MemoryLimit: now.MemoryLimit, PIDs: now.PIDs,
		NetRx: now.NetRx, NetTx: now.NetTx, BlockRead: now.BlockRead, BlockWrite: now.BlockWrite,
	}
	if wall := now.Time.Sub(before.Time); !before.Time.IsZero() && wall > 0 && now.CPU >= before.CPU {
		out.CPUPercent = 100 * float64(now.CPU-before.CPU) / float64(wall)
	}
	return out
}
