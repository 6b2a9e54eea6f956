package faults

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	//go:embed systemd.sh
	systemdBoot string
	//go:embed systemd-check.sh
	systemdCheck string
)

// systemdUnits are added to Debian's.
var systemdUnits = map[string]string{
	"check.target":  "[Unit]\nWants=dbus.socket systemd-logind.service check.service\nAllowIsolate=yes\n",
	"check.service": "[Unit]\nAfter=dbus.socket systemd-logind.service\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sh /check.sh\nStandardOutput=file:/result\nStandardError=file:/errors\n",
	"unit.service":  "[Service]\nType=oneshot\nRemainAfterExit=yes\nWorkingDirectory=/unit\nExecStart=/usr/local/bin/stack up -d\n",
	// Without RemainAfterExit, systemd kills the rest of the group as soon as the command ends.
	"oneshot.service":         "[Service]\nType=oneshot\nWorkingDirectory=/oneshot\nExecStart=/usr/local/bin/stack up -d\n",
	"system.conf.d/stop.conf": "[Manager]\nDefaultTimeoutStopSec=3s\n", // what must be killed need not be waited for
	"logind.conf.d/kill.conf": "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=\n",
}

func TestSystemd(t *testing.T) {
	begin(t)
	for _, f := range []string{"/lib/systemd/systemd", "/lib/systemd/systemd-logind", "/usr/bin/dbus-daemon"} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("needs systemd, dbus and libpam-systemd: %v", err)
		}
	}
	in, err := newInstallation()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.destroy(); err != nil {
			t.Error(err)
		}
	}()
	add := filepath.Join(in.Root, "add")
	stack, err := os.ReadFile(shared.Stack)
	if err != nil {
		t.Fatal(err)
	}
	probe, err := os.ReadFile(shared.Images["probe"].Tar)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"check.sh": systemdCheck, "usr/local/bin/stack": string(stack), "probe.tar": string(probe),
	}
	for name, text := range systemdUnits {
		if strings.HasSuffix(name, ".conf") {
			files["etc/systemd/"+name] = text
		} else {
			files["etc/systemd/system/"+name] = text
		}
	}
	for name, text := range files {
		path := filepath.Join(add, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Devices and time are the machine's.
	for _, unit := range []string{
		"systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket", "systemd-udevd-control.socket",
		"systemd-tmpfiles-setup.service", "systemd-timesyncd.service", "systemd-sysusers.service", "systemd-remount-fs.service",
	} {
		if err := os.Symlink("/dev/null", filepath.Join(add, "etc/systemd/system", unit)); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join(in.Root, "boot.sh")
	if err := os.WriteFile(script, []byte(systemdBoot), 0o755); err != nil {
		t.Fatal(err)
	}
	boot := exec.Command("sh", script, in.Root, "outside")
	var console bytes.Buffer
	boot.Stdout, boot.Stderr = &console, &console
	boot.WaitDelay = time.Second
	if err := boot.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { boot.Wait(); close(ended) }()
	root := filepath.Join(in.Root, "tmp/root")
	err = eventually(90*time.Second, func() error {
		text, err := os.ReadFile(filepath.Join(root, "result"))
		if err == nil && !strings.Contains(string(text), "stage done\n") {
			err = fmt.Errorf("it is not done")
		}
		select {
		case <-ended:
			return nil
		default:
			return err
		}
	})
	text, _ := os.ReadFile(filepath.Join(root, "result"))
	errors, _ := os.ReadFile(filepath.Join(root, "errors"))
	boot.Process.Kill() // with it, all that it has started
	<-ended
	good := 0
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "ok ") {
			good++
		} else if strings.HasPrefix(l, "not ok ") {
			t.Error(strings.TrimSpace(l))
		}
	}
	if err != nil || good < 20 || !strings.Contains(string(text), "stage done") {
		t.Errorf("%v; it printed:\n%s%s%s", err, text, errors, console.String())
	}
	t.Logf("%d things are as they must be", good)
}
