package compose

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestDetachKeys(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		detached bool
	}{
		{"plain", "plain", false},
		{"a\x10b", "a\x10b", false},
		{"abc\x10\x11never", "abc", true},
		{"x\x10\x10\x11", "x\x10", true},
	} {
		for _, in := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in))} {
			got, err := io.ReadAll(&keyReader{r: in, keys: []byte{0x10, 0x11}})
			if !bytes.Equal(got, []byte(tt.want)) || errors.Is(err, errDetached) != tt.detached {
				t.Errorf("%q: got %q, %v; want %q, detached %v", tt.in, got, err, tt.want, tt.detached)
			}
		}
	}
}

func TestParseKeys(t *testing.T) {
	got, err := parseKeys("")
	if err != nil || !bytes.Equal(got, []byte{16, 17}) {
		t.Errorf("default keys are %v, %v", got, err)
	}
	if _, err := parseKeys("ctrl-"); err == nil {
		t.Error("ctrl- alone is no key")
	}
}

// The race detector sees whether a terminal is touched after it is no longer resized.
func TestResizesEndBeforeTheTerminalIsClosed(t *testing.T) {
	for range 20 {
		var pair [2]*os.File
		for i := range pair {
			f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
			if err != nil {
				t.Skip(err)
			}
			pair[i] = f
		}
		stop := resizes(pair[0], pair[1])
		unix.Kill(os.Getpid(), unix.SIGWINCH)
		stop()
		pair[0].Close()
		pair[1].Close()
	}
}

func TestAwaitShort(t *testing.T) {
	for _, c := range []struct {
		what            string
		running, stored bool
		want            time.Duration
	}{
		{"one that has ended", true, true, 0},
		{"one that runs", true, false, short},
		{"one whose hooks take their time", false, false, shortStart},
	} {
		synctest.Test(t, func(t *testing.T) {
			running, stored := make(chan struct{}), make(chan struct{})
			if c.running {
				close(running)
			}
			if c.stored {
				close(stored)
			}
			begin := time.Now()
			awaitShort(t.Context(), running, stored)
			if took := time.Since(begin); took != c.want {
				t.Errorf("%s: it took %s", c.what, took)
			}
		})
	}
}
