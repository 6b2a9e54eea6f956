package cgroup

import (
	"fmt"
	"os"
	"reflect"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlaces(t *testing.T) {
	const (
		unified = "30 1 0:1 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
		v1      = "30 1 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
			"31 30 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"32 30 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
			"33 30 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	)
	tests := []struct {
		name, mounts, own, first string
		want                     []place
	}{
		{
			"a unit of systemd", unified, "0::/system.slice/app.service\n", "0::/init.scope\n",
			[]place{{point: "/sys/fs/cgroup", own: "/sys/fs/cgroup/system.slice/app.service", first: "/sys/fs/cgroup/init.scope", v2: true}},
		},
		{
			"v1, its named hierarchy and v2 beside it", v1, "3:cpu,cpuacct:/a\n2:name=systemd:/b\n0::/c\n", "3:cpu,cpuacct:/\n2:name=systemd:/i\n0::/\n",
			[]place{
				{point: "/sys/fs/cgroup/cpu,cpuacct", own: "/sys/fs/cgroup/cpu,cpuacct/a", first: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
				{point: "/sys/fs/cgroup/systemd", own: "/sys/fs/cgroup/systemd/b", first: "/sys/fs/cgroup/systemd/i", controllers: []string{"name=systemd"}},
				{point: "/sys/fs/cgroup/unified", own: "/sys/fs/cgroup/unified/c", first: "/sys/fs/cgroup/unified", v2: true},
			},
		},
		{
			"a mount over another", v1 + "40 1 0:9 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 40 0:4 /box /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"3:cpu,cpuacct:/a\n0::/box/mine\n", "0::/box\n",
			[]place{{point: "/sys/fs/cgroup/unified", own: "/sys/fs/cgroup/unified/mine", first: "/sys/fs/cgroup/unified", v2: true}},
		},
		{
			"the first process is out of sight", unified, "0::/job\n", "0::/../..\n",
			[]place{{point: "/sys/fs/cgroup", own: "/sys/fs/cgroup/job", first: "/sys/fs/cgroup", v2: true}},
		},
		{
			"and may be hidden", unified, "0::/job\n", "",
			[]place{{point: "/sys/fs/cgroup", own: "/sys/fs/cgroup/job", first: "/sys/fs/cgroup", v2: true}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parsePlaces(tt.mounts, tt.own, tt.first); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestRoom(t *testing.T) {
	for _, tt := range []struct {
		room, need int
		ok         bool
	}{{-1, 1000, true}, {32, 32, true}, {31, 32, false}, {0, 1, false}} {
		if err := (&Shelter{room: tt.room}).Room(tt.need); (err == nil) != tt.ok {
			t.Errorf("room for %d, %d needed: %v", tt.room, tt.need, err)
		}
	}
}

// Who was in a group before may remove it while another enters.
func TestShelterThatOthersRemove(t *testing.T) {
	var made int
	gone := []error{unix.ENOENT, unix.ENODEV}
	err := enter(func() error { made++; return nil }, func() error {
		if len(gone) == 0 {
			return nil
		}
		err := gone[0]
		gone = gone[1:]
		return &os.PathError{Op: "write", Path: "tasks", Err: err}
	})
	if err != nil || made != 2 {
		t.Errorf("%v after it was made %d times", err, made)
	}
	if err := enter(func() error { made++; return nil }, func() error { return unix.EPERM }); err != unix.EPERM || made != 2 {
		t.Errorf("what is not allowed: %v after it was made %d times", err, made)
	}
	if os.Geteuid() != 0 {
		t.Skip("the rest needs root")
	}
	s, err := NewShelter(fmt.Sprintf("stack-test-shelter-%d", os.Getpid()))
	if err != nil || len(s.Groups()) == 0 {
		t.Skipf("there is no group to leave: %v", err)
	}
	defer s.Close()
	RemoveGroups(s.Groups())
	pid, err := s.Start("/proc/self/exe", []string{"shelter", "-test.run", "^$"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("%v, %v", err, status)
	}
	RemoveGroups(s.Groups())
	for i := 0; i < len(s.Groups()); i += 2 {
		if _, err := os.Stat(s.Groups()[i]); err == nil {
			t.Errorf("%s is left", s.Groups()[i])
		}
	}
}
