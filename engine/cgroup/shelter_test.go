package cgroup

import (
	"reflect"
	"testing"
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
