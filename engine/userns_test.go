package engine

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseUserNS(t *testing.T) {
	for mode, want := range map[string]string{
		"": "", "host": "", "auto": "auto", "keep-id": "keep-id", "nomap": "nomap", "100000:1000": "auto 0 100000 1000",
		"private": "error", "0:65536": "error", "5": "error", "5:": "error", "5:0": "error", "4294967295:1": "error", "-1:5": "error", "1:2:3": "error",
	} {
		kind, ids, err := parseUserNS(mode)
		got := strings.TrimSpace(kind + " " + ids.String())
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q is %q, want %q (%v)", mode, got, want, err)
		}
	}
}

func TestBuildUserNS(t *testing.T) {
	for mode, want := range map[string][2]string{ // of a service, and asked for
		"": {"", ""}, "host": {"", ""}, "auto": {"auto", "auto"}, "nomap": {"auto", "auto"}, "keep-id": {"auto", "error"},
		"5:6": {"5:6", "5:6"}, "0:6": {"error", "error"}, "some": {"error", "error"},
	} {
		for i, read := range []func(string) (string, error){BuildUserNS, AskedBuildUserNS} {
			got, err := read(mode)
			if err != nil {
				got = "error"
			}
			if got != want[i] {
				t.Errorf("%q is %q, want %q (%v)", mode, got, want[i], err)
			}
		}
	}
}

func TestFreeRange(t *testing.T) {
	choose := func(subuid, subgid string, taken ...span) (uint32, error) {
		return freeRange("project a", []string{subuid, subgid}, taken)
	}
	first, err := choose("", "")
	if err != nil || first < poolFirst || first >= poolEnd || first%idsPerRange != 0 {
		t.Errorf("%d, %v", first, err)
	}
	if again, _ := choose("alice:100000:65536\nbob:165536:65536\n", ""); again != first {
		t.Errorf("once %d, then %d", first, again)
	}
	line := fmt.Sprintf("#\nnonsense:1\nalice:%d:1\n", first+1)
	for what, got := range map[string]func() (uint32, error){
		"taken":              func() (uint32, error) { return choose("", "", span{uint64(first) + 5, uint64(first) + 6}) },
		"another user's":     func() (uint32, error) { return choose(line, "") },
		"another's as group": func() (uint32, error) { return choose("", line) },
	} {
		if next, err := got(); err != nil || next == first {
			t.Errorf("a range that is %s is given: %d, %v", what, next, err)
		}
	}
	own := "stack:0:65536\nstack:4294900000:100000\nstack:1000000:131072\n"
	if got, err := choose(own, "stack:1065536:131072\n"); err != nil || got != 1065536 {
		t.Errorf("of what both files have: %d, %v", got, err)
	}
	for _, c := range [][2]string{{own, "stack:5000000:65536\n"}, {"stack:1000:10\n", "stack:1000:10\n"}} {
		if got, err := choose(c[0], c[1]); err == nil {
			t.Errorf("%q gives %d", c, got)
		}
	}
	if _, err := choose(own, own, span{0, 2000000}); err == nil || !strings.Contains(err.Error(), "/etc/subuid") {
		t.Error(err)
	}
}

func TestSwapped(t *testing.T) {
	r := specs.LinuxIDMapping{HostID: 100000, Size: 2000}
	for _, c := range []struct {
		owner, user uint32
		want        map[uint32]uint32 // of files to the host's
	}{
		{0, 0, map[uint32]uint32{0: 100000, 1999: 101999}},
		{1000, 0, map[uint32]uint32{1000: 100000, 1: 100001, 999: 100999, 1001: 101001, 1999: 101999}},
		{0, 999, map[uint32]uint32{0: 100999, 999: 100000, 5: 100005}},
		{1000, 999, map[uint32]uint32{1000: 100999, 999: 101000, 1: 100001}},
		{70000, 0, map[uint32]uint32{70000: 100000, 1: 100001, 1999: 101999}},
		{70000, 5, map[uint32]uint32{70000: 100005, 1: 100001, 6: 100006}},
		{1000, 70000, map[uint32]uint32{1000: 101000, 0: 100000}},
	} {
		ids := swapped(r, c.owner, c.user)
		for file, want := range c.want {
			if got, ok := ids.Host(file); !ok || got != want {
				t.Errorf("owner %d, user %d: %d becomes %d, %v, want %d in\n%s", c.owner, c.user, file, got, ok, want, ids)
			}
		}
		if _, ok := ids.Host(0); ok != (c.owner == 0 || c.user >= r.Size) {
			t.Errorf("owner %d, user %d: the host's root is mapped: %v", c.owner, c.user, ok)
		}
		seen := map[uint32]bool{}
		for file := range uint32(80000) {
			if host, ok := ids.Host(file); ok {
				if seen[host] || host < 100000 || host >= 102000 {
					t.Fatalf("owner %d, user %d: %d becomes %d, which is another's", c.owner, c.user, file, host)
				}
				seen[host] = true
			}
		}
	}
}
