package seccomp

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEncode(t *testing.T) {
	for _, f := range []*Filter{
		nil,
		{Flags: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, Program: []unix.SockFilter{{Code: 1, Jt: 2, Jf: 3, K: 1 << 31}, {Code: 0xfffe}}},
	} {
		got, err := Decode(f.Encode())
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Errorf("%+v became %+v, %v", f, got, err)
		}
	}
	whole := (&Filter{Program: make([]unix.SockFilter, 2)}).Encode()
	for n := range whole {
		if f, err := Decode(whole[:n]); err == nil && n != 13 {
			t.Errorf("the first %d bytes are taken for %+v", n, f)
		}
	}
	for _, b := range [][]byte{nil, {1}, {2}, append([]byte{2}, whole[1:]...), make([]byte, 5+8*(maxInstructions+1))} {
		if f, err := Decode(b); err == nil {
			t.Errorf("%d bytes are taken for %+v", len(b), f)
		}
	}
}
