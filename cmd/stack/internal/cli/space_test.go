package cli

import (
	"testing"
)

func TestSpaceHint(t *testing.T) {
	data := Disk{path: "/data", free: 5 << 30, size: 10 << 30, inodes: 9, advice: "do this"}
	run := Disk{path: "/run", free: 1 << 20, size: 100 << 20, inodes: 9, advice: "do that"}
	with := func(d Disk, free, inodes uint64) Disk { d.free, d.inodes = free, inodes; return d }
	for _, test := range []struct {
		disks []Disk
		want  string
	}{
		{nil, ""},
		{[]Disk{data}, ""},
		{[]Disk{data, with(run, 0, 9)}, "the disk with /run has 0B of 104.9MB left: do that"},
		{[]Disk{with(data, 4096, 9), run}, "the disk with /data has 4.096kB of 10.74GB left: do this"},
		// The larger one of two is full in another way.
		{[]Disk{with(data, 5<<30, 0), run}, "the disk with /data has no inodes left: do this"},
		// What did not fit is gone again.
		{[]Disk{with(data, 100<<20, 9)}, "the disk with /data has 104.9MB of 10.74GB left: do this"},
	} {
		if got := SpaceHint(test.disks); got != test.want {
			t.Errorf("%+v: %q, want %q", test.disks, got, test.want)
		}
	}
}

func TestErrorsThatSpeakOfSpace(t *testing.T) {
	for text, want := range map[string]bool{
		"cannot store blob: write: no space left on device": true,
		"head: write error: No space left on device":        true,
		"disk quota exceeded":                               true,
		"no such file or directory":                         false,
	} {
		if got := SpeaksOfSpace(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
