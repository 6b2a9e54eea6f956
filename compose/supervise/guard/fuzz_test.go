package guard

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
)

// FuzzControl sends a guard anything over the control socket, a message a line; one
// whose first byte is odd has a descriptor with it. The guard holds what it was last
// asked to, under names that its next child can be told, and nothing else stays open.
func FuzzControl(f *testing.F) {
	f.Add([]byte("ihold a:tty\nihold b:dns/0\nidrop a:tty\nhdrop b:dns/0\nihold a:tty"))
	f.Add([]byte("ihold a\nihold a\nhhold a\nihold\nihold \ni\nh\nikeep x\nihold a\x00b\nihold " + strings.Repeat("n", 600)))
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	f.Fuzz(func(t *testing.T, script []byte) {
		before := descriptors(t)
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		g := &guard{role: Warden, control: pair[0]}
		served := make(chan struct{})
		go g.serve(pair[0], served)
		want := map[string]bool{}
		for message := range bytes.SplitSeq(script, []byte("\n")) {
			if len(message) < 2 || len(message) > 4096 {
				continue // one of no bytes reads as the end
			}
			var rights []byte
			if message[0]&1 == 1 {
				rights = syscall.UnixRights(int(null.Fd()))
			}
			text := strings.ReplaceAll(string(message[1:]), "\r", "\n")
			if err := syscall.Sendmsg(pair[1], []byte(text), rights, nil, syscall.MSG_NOSIGNAL); err != nil {
				t.Fatal(err)
			}
			verb, name, _ := strings.Cut(text[:min(len(text), maxMessage)], " ")
			delete(want, name)
			if verb == "hold" && rights != nil && !strings.ContainsAny(name, "\n\x00") {
				want[name] = true
			}
		}
		syscall.Close(pair[1])
		<-served
		for _, h := range g.held {
			if !want[h.name] || !listable(h.name) {
				t.Errorf("%q is held", h.name)
			}
			delete(want, h.name)
			if err := syscall.Close(h.fd); err != nil {
				t.Errorf("%q is held as %d: %v", h.name, h.fd, err)
			}
		}
		if len(want) > 0 {
			t.Errorf("%v are not held", want)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors were open and %d are now", before, after)
		}
	})
}

// descriptors is how many files this process has open.
func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
