package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckRealtime(t *testing.T) {
	root := t.TempDir()
	v1 := &Hierarchy{V1: map[string]string{"cpu": root}}
	says := func(h *Hierarchy, parent, want string) {
		t.Helper()
		err := h.CheckRealtime(parent)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", parent, err)
		}
	}
	budget := func(group, value string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, group, realtimeFile), []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	says(&Hierarchy{}, "a", "cgroup v2")
	says(v1, "a", "CONFIG_RT_GROUP_SCHED")
	budget("", "950000")
	says(v1, "a", "/a has no real-time budget")
	budget("a", "0")
	says(v1, "/a", "cgroup_parent")
	budget("a", "1000")
	says(v1, "a", "")
}
