package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/machine"
)

func TestFiftyServices(t *testing.T) {
	b := newBox(t, "busybox:latest")
	var y strings.Builder
	y.WriteString("name: app\nservices:\n")
	for i := range 50 {
		fmt.Fprintf(&y, "  s%02d:\n    image: busybox\n    command: [sh, -c, 'echo service s%02d; exec sleep infinity']\n", i, i)
		if i%5 > 0 { // ten chains of five
			fmt.Fprintf(&y, "    depends_on: [s%02d]\n", i-1)
		}
	}
	b.write(t, "compose.yaml", y.String())

	t.Run("up starts them all, each after its dependency", func(t *testing.T) {
		b.ok(t, "up", "--detach", "--wait")
		rows := b.ps(t)
		if len(rows) != 50 {
			t.Fatalf("there are %d containers", len(rows))
		}
		started := map[string]time.Time{}
		for _, r := range rows {
			i := b.look(t, r.Name)
			if i.State.Status != "running" {
				t.Errorf("%s is %s", r.Name, i.State.Status)
			}
			started[r.Service] = i.State.StartedAt
		}
		for i := range 50 {
			if me, dep := fmt.Sprintf("s%02d", i), fmt.Sprintf("s%02d", i-1); i%5 > 0 && started[me].Before(started[dep]) {
				t.Errorf("%s began at %v, before %s at %v", me, started[me], dep, started[dep])
			}
		}
	})
	t.Run("logs has a line of each", func(t *testing.T) {
		eventually(t, 5*time.Second, func() error {
			if n := strings.Count(b.ok(t, "logs"), "| service s"); n != 50 {
				return fmt.Errorf("logs has %d lines", n)
			}
			return nil
		})
	})
	t.Run("all own processes together cost less than 40 MiB when idle", func(t *testing.T) {
		var total int
		for path, kib := range ownMemory(t) {
			t.Logf("%6d KiB PSS  %s", kib, path)
			total += kib
		}
		if total == 0 || total >= 40<<10 {
			t.Errorf("they cost %d KiB", total)
		}
	})
	t.Run("down takes them all away", func(t *testing.T) {
		b.ok(t, "down")
		b.nothingLeft(t, b.before)
	})
}

// ownMemory returns the proportional set size of each process of the program
// under test, in KiB.
func ownMemory(t *testing.T) map[string]int {
	t.Helper()
	pids, err := machine.PIDs()
	must(t, err)
	out := map[string]int{}
	for _, pid := range pids {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || filepath.Clean(exe) != shared.Stack {
			continue
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		p, _ := machine.ReadProc(pid)
		s := bufio.NewScanner(f)
		for s.Scan() {
			if fields := strings.Fields(s.Text()); len(fields) > 1 && fields[0] == "Pss:" {
				out[fmt.Sprintf("%d %s", pid, p.Cmdline)], _ = strconv.Atoi(fields[1])
			}
		}
		f.Close()
	}
	return out
}
