package runtime

import (
	"encoding/binary"
	"os"
	"slices"
	"time"

	"bufio"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	s, err := parseStat([]byte("42 (a) b (c) S 7 42 42 0 -1 4194560 111 0 0 0 0 0 0 0 20 0 1 0 987654 2 3 4\n"))
	if want := (Stat{PID: 42, Comm: "a) b (c", State: 'S', PPID: 7, StartTicks: 987654}); err != nil || s != want {
		t.Errorf("%+v %v", s, err)
	}
	for _, bad := range []string{"", "1 (", "1 (x) S 2", ") ("} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
	if (Stat{State: 'Z'}).Alive() || !(Stat{State: 'R'}).Alive() {
		t.Error("Alive")
	}
}

func TestFollowLinks(t *testing.T) {
	links := map[string]string{
		"/var/run": "/run", "/run/a": "b", "/up": "../../../etc", "/loop": "/loop", "/abs": "/var/run/a/", "/dir/rel": "../run",
	}
	exists := map[string]bool{"/var": true, "/run": true, "/etc": true, "/dir": true, "/run/b": true}
	readlink := func(p string) (string, error) {
		switch {
		case links[p] != "":
			return links[p], nil
		case exists[p]:
			return "", unix.EINVAL
		}
		return "", unix.ENOENT
	}
	for p, want := range map[string]string{
		"/var/run/x/y": "/run/x/y", "/abs/z": "/run/b/z", "/up/passwd": "/etc/passwd", "/dir/rel/a": "/run/b", "/": "/",
		"/none/../x": "/none/../x"[:0] + "/x", "/etc": "/etc",
	} {
		got, err := followLinks(p, readlink)
		if err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", p, got, err, want)
		}
	}
	if _, err := followLinks("/loop/x", readlink); err == nil || !strings.Contains(err.Error(), "too many levels") {
		t.Error(err)
	}
}

func TestGaps(t *testing.T) {
	const last = 1<<32 - 1
	for _, c := range []struct {
		keep []int
		want [][2]uintptr
	}{
		{nil, [][2]uintptr{{3, last}}},
		{[]int{3}, [][2]uintptr{{4, last}}},
		{[]int{9, 0, 5, 5}, [][2]uintptr{{3, 4}, {6, 8}, {10, last}}},
	} {
		if got := gaps(c.keep); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %v, want %v", c.keep, got, c.want)
		}
	}
}

func TestDecimal(t *testing.T) {
	for v, want := range map[uintptr]string{0: "0", 7: "7", 10: "10", 4194304: "4194304"} {
		b := []byte("xxxxxxxxxxxxxxxx")
		decimal(unsafe.Pointer(&b[0]), v)
		if got := string(b[:len(want)+1]); got != want+"\x00" {
			t.Errorf("%d: %q", v, got)
		}
	}
}

func TestFindHeap(t *testing.T) {
	const maps = `00400000-004ab000 r-xp 00000000 fe:00 10432722                           /bin/x
00599000-005cf000 rw-p 00000000 00:00 0 
19df8000000-19df9400000 ---p 00000000 00:00 0 
19df9400000-19dffc00000 rw-p 00000000 00:00 0 
19dffc00000-19e00000000 ---p 00000000 00:00 0 
7fb9341be000-7fb934400000 rw-p 00000000 00:00 0 
7ffc760e5000-7ffc76106000 rw-p 00000000 00:00 0                          [stack]
`
	find := func(object uintptr) addressRange { return findHeap(bufio.NewScanner(strings.NewReader(maps)), object) }
	if got := find(0x19df9500000); got != (addressRange{0x19df8000000, 0x7fb9341be000}) {
		t.Errorf("%x", got)
	}
	if got := find(0x500000); got != (addressRange{}) {
		t.Errorf("%x", got)
	}
	if got := find(0x401000); got != (addressRange{}) {
		t.Errorf("the binary's text is taken for the heap: %x", got)
	}
}

func TestParseMountOptions(t *testing.T) {
	o := parseMountOptions([]string{"rbind", "ro", "rw", "nosuid", "noatime", "relatime", "rslave", "rnodev", "size=1m", "huge"})
	want := mountOptions{bind: true, rec: true, clear: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR__ATIME, set: unix.MOUNT_ATTR_NOSUID,
		recSet: unix.MOUNT_ATTR_NODEV, propagation: unix.MS_SLAVE, recProp: true, data: []string{"size=1m", "huge"}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("%+v", o)
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\nbare:x:40:40:::\n")
	group := []byte("root:x:0:\nadm:x:4:root,web\nweb:x:34:\nwheel:x:10:root,web\n")
	for _, c := range []struct {
		spec     string
		add      []string
		uid, gid uint32
		more     []uint32
		home     string
	}{
		{"", nil, 0, 0, []uint32{0, 4, 10}, "/root"},
		{"root", nil, 0, 0, []uint32{0, 4, 10}, "/root"},
		{"web", nil, 33, 34, []uint32{34, 4, 10}, "/var/www"},
		{"33", []string{"root", "5000"}, 33, 34, []uint32{34, 4, 10, 0, 5000}, "/var/www"},
		{"web:adm", nil, 33, 4, []uint32{4}, "/var/www"},
		{"1234:99", nil, 1234, 99, []uint32{99}, "/"},
		{"1234", nil, 1234, 0, []uint32{0}, "/"},
		{"bare", nil, 40, 40, []uint32{40}, "/"},
	} {
		u, home, err := ResolveUser(passwd, group, c.spec, c.add)
		if err != nil || u.UID != c.uid || u.GID != c.gid || !reflect.DeepEqual(u.AdditionalGids, c.more) || home != c.home {
			t.Errorf("%q: %+v %s %v", c.spec, u, home, err)
		}
	}
	for spec, want := range map[string]string{
		"nobody":   `cannot resolve user "nobody": /etc/passwd of the image has no such user; use a name it has or a number`,
		"web:none": `cannot resolve user "web:none": /etc/group of the image has no such group; use a name it has or a number`,
	} {
		if _, _, err := ResolveUser(passwd, group, spec, nil); err == nil || err.Error() != want {
			t.Errorf("%q: %v", spec, err)
		}
	}
	if _, _, err := ResolveUser(nil, nil, "web", nil); err == nil {
		t.Error("a name resolves without passwd")
	}
	if u, home, err := ResolveUser(nil, nil, "12", nil); err != nil || u.UID != 12 || home != "/" {
		t.Error(u, home, err)
	}
	if _, _, err := ResolveUser(nil, group, "", []string{"none"}); err == nil {
		t.Error("an unknown group resolves")
	}
}

func TestSysctlPath(t *testing.T) {
	s := testSpec("true")
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":            "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
		"net.ipv4.conf.eth0/1.rp_filter": "net/ipv4/conf/eth0.1/rp_filter",
		"fs.mqueue.msg_max":              "fs/mqueue/msg_max",
		"kernel.shm_rmid_forced":         "kernel/shm_rmid_forced",
		"kernel.core_pattern":            "",
		"net..":                          "", "": "", "../x": "", "net/../../x": "", "net/../kernel/core_pattern": "",
	} {
		got, err := SysctlFile(s, key)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", key, got, err)
		}
	}
}

func TestHierarchies(t *testing.T) {
	got := v1Hierarchies("9:name=systemd:/\n8:pids:/x\n4:cpu,cpuacct:/a:b\n0::/\n")
	if want := []string{"cpu,cpuacct", "name=systemd", "pids"}; !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
}

func TestCandidates(t *testing.T) {
	if got := candidates("x", "/a::/b/:/a"); !reflect.DeepEqual(got, []string{"/a/x", "./x", "/b/x"}) {
		t.Error(got)
	}
	if got := candidates("./x", "/a"); !reflect.DeepEqual(got, []string{"./x"}) {
		t.Error(got)
	}
	if searchPath([]string{"PATH=/x", "PATH=/y"}) != "/y" || searchPath(nil) != defaultSearchPath {
		t.Error("searchPath")
	}
}

// What a child wrote between the last look at its pipe and its end counts, also while
// somebody else who was forked meanwhile has the pipe open.
func TestRecordsOfAChildThatHasEnded(t *testing.T) {
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	record := func(op, errno int32) []byte {
		return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(op)), uint32(errno))
	}
	all := slices.Concat(record(stepNone, 0), record(recordReady, 0))
	_, err = w.Write(all[3:])
	check(t, err)
	check(t, r.SetReadDeadline(time.Unix(1, 0))) // as it has just passed
	o := outcome{program: &program{command: "x"}}
	l := &launch{}
	check(t, l.rest(r, all[:3], &o))
	if !o.ready || !o.none {
		t.Errorf("%+v", o)
	}
}
