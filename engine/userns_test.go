package engine

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stack-run/stack/engine/runtime"
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

func TestFreeRange(t *testing.T) {
	first, err := freeRange("project a", "", nil)
	if err != nil || first < poolFirst || first >= poolEnd || first%idsPerRange != 0 {
		t.Errorf("%d, %v", first, err)
	}
	if again, _ := freeRange("project a", "alice:100000:65536\nbob:165536:65536\n", nil); again != first {
		t.Errorf("once %d, then %d", first, again)
	}
	if next, _ := freeRange("project a", "", map[uint32]bool{first: true}); next == first {
		t.Error("a range is given twice")
	}
	// A user who has these IDs, and one line that is none.
	if next, _ := freeRange("project a", "#\nalice:"+uitoa(first+1)+":1\n", nil); next == first {
		t.Error("the range is another user's")
	}
	own, err := freeRange("project a", "stack:1000000:131072\n", nil)
	if err != nil || own < 1000000 || own >= 1131072 {
		t.Errorf("of /etc/subuid: %d, %v", own, err)
	}
	_, err = freeRange("project a", "stack:1000000:65536", map[uint32]bool{1000000: true})
	if err == nil || !strings.Contains(err.Error(), "/etc/subuid") {
		t.Error(err)
	}
}

func uitoa(n uint32) string { return strings.Fields(runtime.IDs{{HostID: n}}.String())[1] }

func TestSwapped(t *testing.T) {
	r := specs.LinuxIDMapping{HostID: 100000, Size: 2000}
	for _, c := range []struct {
		owner, user uint32
		want        map[uint32]uint32 // of files to the host's
	}{
		{0, 0, map[uint32]uint32{0: 100000, 1999: 101999}},
		{1000, 0, map[uint32]uint32{0: 101000, 1000: 100000, 1: 100001, 999: 100999, 1001: 101001, 1999: 101999}},
		{0, 999, map[uint32]uint32{0: 100999, 999: 100000, 5: 100005}},
		{1000, 999, map[uint32]uint32{1000: 100999, 999: 101000, 0: 100000}},
		{70000, 0, map[uint32]uint32{70000: 100000, 1: 100001, 1999: 101999}},
		{70000, 5, map[uint32]uint32{70000: 100005, 0: 100000, 6: 100006}},
		{1000, 70000, map[uint32]uint32{1000: 101000, 0: 100000}},
	} {
		ids := swapped(r, c.owner, c.user)
		for file, want := range c.want {
			if got, ok := ids.Host(file); !ok || got != want {
				t.Errorf("owner %d, user %d: %d becomes %d, %v, want %d in\n%s", c.owner, c.user, file, got, ok, want, ids)
			}
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
