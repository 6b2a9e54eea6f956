package vm

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/peer"
)

var (
	withVM   = flag.Bool("vm", false, "boot virtual machines (needs qemu-system-x86, cpio, kmod, e2fsprogs)")
	cuts     = flag.Int("cuts", 0, "how often the power is taken away from a machine at work")
	patience = flag.Duration("patience", 5*time.Minute, "how long a boot may take, more on a machine that is busy")
	seedFlag = flag.Uint64("seed", 0, "what the moments come from, 0 for the clock")
)

//go:embed guest.sh
var guest string

// initScript leaves the initial file system, which is no place to change the
// root from (pivot_root(2)).
const initScript = `#!/bin/sh
export PATH=/bin
mount -t tmpfs -o size=1g tmpfs /new
cp -a /bin /sbin /lib /etc /img.tar /guest.sh /new/
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/root
exec switch_root /new /bin/sh /guest.sh
`

// machine is a virtual machine's parts.
type machine struct {
	kernel, initrd, disk string
}

func TestOldKernelAndPowerLoss(t *testing.T) {
	if !*withVM {
		t.Skip("needs -vm")
	}
	m := newMachine(t)
	first := m.boot(t, "first")
	second := m.boot(t, "second")
	if len(first) < 10 || len(second) < 5 {
		t.Errorf("only %d and %d things were looked at", len(first), len(second))
	}
}

// Jobs go on by their schedules after the power has failed, none twice for one time.
func TestJobsAfterPowerLoss(t *testing.T) {
	if !*withVM {
		t.Skip("needs -vm")
	}
	m := newMachine(t)
	m.boot(t, "jobs1")
	if checks := m.boot(t, "jobs2"); len(checks) < 8 {
		t.Errorf("only %d things were looked at", len(checks))
	}
}

// newMachine puts together a machine with stack in it.
func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	kernel := debianKernel(t, dir)
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "dev", "etc", "lib", "new", "proc", "sys"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(t, os.Symlink("bin", filepath.Join(root, "sbin"))) // where the kernel has modprobe sought
	busybox, err := peer.Busybox()
	must(t, err)
	run(t, "", "cp", busybox, filepath.Join(root, "bin/busybox"))
	applets, err := exec.Command(busybox, "--list").Output()
	must(t, err)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
		}
	}
	must(t, peer.Build(t.Context(), "../..", "./cmd/stack", filepath.Join(root, "bin/stack")))
	registry, err := peer.Built(t.Context(), "registry")
	must(t, err)
	run(t, "", "cp", registry, filepath.Join(root, "bin/registry"))
	version := modules(t, dir, root)
	run(t, "", "depmod", "-b", root, version)
	img, err := os.Create(filepath.Join(root, "img.tar"))
	must(t, err)
	must(t, errors.Join(peer.WriteRootfs(img, busybox), img.Close()))
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "guest.sh"), []byte(guest), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "init"), []byte(initScript), 0o755))
	m := machine{kernel: kernel, initrd: filepath.Join(dir, "initrd.gz"), disk: filepath.Join(dir, "disk")}
	run(t, root, "sh", "-c", "find . | cpio --quiet -o -H newc | gzip -1 >"+m.initrd)
	f, err := os.Create(m.disk)
	must(t, err)
	must(t, errors.Join(f.Truncate(1<<30), f.Close()))
	run(t, "", "mkfs.ext4", "-q", "-O", "quota,project", m.disk)
	return m
}

var dependsOnKernel = regexp.MustCompile(`linux-image-[0-9]\S*`)

// debianKernel fetches and unpacks the cloud kernel of this Debian.
func debianKernel(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("apt-cache", "depends", "linux-image-cloud-amd64").Output()
	must(t, err)
	run(t, dir, "apt-get", "-q", "download", dependsOnKernel.FindString(string(out)))
	debs, err := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages %v, %v", debs, err)
	}
	run(t, dir, "dpkg-deb", "-x", debs[0], "kernel")
	kernels, err := filepath.Glob(filepath.Join(dir, "kernel/boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("kernels %v, %v", kernels, err)
	}
	return kernels[0]
}

// modules copies the kernel's modules, but for drivers of what is not there.
func modules(t *testing.T, dir, root string) (version string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "kernel/lib/modules/*"))
	if err != nil || len(all) != 1 {
		t.Fatalf("modules %v, %v", all, err)
	}
	to := filepath.Join(root, "lib/modules", filepath.Base(all[0]))
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	run(t, "", "cp", "-r", all[0], to)
	for _, d := range []string{"drivers/gpu", "drivers/net/ethernet", "drivers/infiniband", "drivers/scsi", "drivers/md", "sound"} {
		must(t, os.RemoveAll(filepath.Join(to, "kernel", d)))
	}
	return filepath.Base(all[0])
}

// boot runs a stage until it says that it is done, and then takes the power away.
// It returns what was looked at.
func (m machine) boot(t *testing.T, stage string) (checks []string) {
	t.Helper()
	checks, ok := m.run(t, "stage="+stage, "stage done", 0)
	if !ok {
		t.FailNow()
	}
	t.Logf("stage %s:\n%s", stage, strings.Join(checks, "\n"))
	return checks
}

// run starts the machine, and takes its power away so long after it has printed a
// line. It returns what was looked at, and whether the line came.
func (m machine) run(t *testing.T, what, until string, after time.Duration) (checks []string, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-m", "3072", "-smp", "2", "-nographic", "-no-reboot",
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", "console=ttyS0 quiet panic=-1 rdinit=/init "+what,
		"-drive", "file="+m.disk+",if=virtio,format=raw,cache=writeback")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill() // without a word to the guest
	var all strings.Builder
	failed := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		fmt.Fprintln(&all, line)
		switch {
		case strings.HasPrefix(line, "ok "):
			checks = append(checks, line)
		case strings.HasPrefix(line, "not ok "):
			failed = true
			t.Errorf("%s: %s", what, line)
		case line == until:
			if failed {
				t.Logf("%s:\n%s", what, &all)
			}
			<-time.After(after)
			return checks, true
		}
	}
	t.Errorf("%s ended too early (%v):\n%s", what, ctx.Err(), &all)
	return checks, false
}

// TestPowerCuts takes the power away at random moments of up, down, build and pull.
// What the guest has not flushed is lost with its page cache; what it has, the
// host's cache keeps, as a disk with a battery does.
func TestPowerCuts(t *testing.T) {
	if *cuts == 0 {
		t.Skip("needs -cuts")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("-seed %d", seed)
	m := newMachine(t)
	random := rand.New(rand.NewPCG(seed, 0))
	for boot := range *cuts + 1 {
		moment := time.Duration(random.Float64() * float64(4*time.Second))
		checks, ok := m.run(t, fmt.Sprintf("stage=cut boot=%d", boot), "at work", moment)
		t.Logf("boot %d: %d things are as they must be, cut %v after it was at work", boot, len(checks), moment.Round(time.Millisecond))
		if !ok {
			t.Fatal("the machine does not get to work")
		}
	}
	// What the last cut left.
	if checks, ok := m.run(t, fmt.Sprintf("stage=cut boot=%d", (*cuts+5)/5*5), "at work", 0); !ok || len(checks) < 10 {
		t.Errorf("after the last cut only %d things were looked at", len(checks))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if _, err := peer.Run(cmd); err != nil {
		t.Fatal(err)
	}
}
