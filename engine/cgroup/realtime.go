package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// realtimeFile is the budget of a cgroup v1 group for real-time tasks
// (scheduler/sched-rt-group.rst).
const realtimeFile = "cpu.rt_runtime_us"

// CheckRealtime tells what keeps a group below parent from having a real-time budget: a
// group can only give on what it has.
func (h *Hierarchy) CheckRealtime(parent string) error {
	root, ok := h.V1["cpu"]
	if !ok {
		return errors.New("this host has cgroup v2, which has no real-time budgets; for real-time priorities set ulimits.rtprio and cap_add SYS_NICE")
	}
	if _, err := os.Stat(filepath.Join(root, realtimeFile)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this kernel has no real-time budgets of groups (CONFIG_RT_GROUP_SCHED): there is no %s in %s", realtimeFile, root)
	}
	dir := filepath.Join(root, parent)
	budget, err := os.ReadFile(filepath.Join(dir, realtimeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if text := strings.TrimSpace(string(budget)); text == "" || text == "0" {
		return fmt.Errorf("the control group %s has no real-time budget to give to containers; make a group with one (write microseconds into %s of it and of all above), and name it with cgroup_parent", dir, realtimeFile)
	}
	return nil
}
