package seccomp

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Encode is the filter for this machine's own use, with the fields of struct
// sock_filter in its byte order. That of nil is not empty: it stands for none.
func (f *Filter) Encode() []byte {
	if f == nil {
		return []byte{0}
	}
	b := make([]byte, 0, 5+8*len(f.Program))
	b = append(b, 1)
	b = binary.NativeEndian.AppendUint32(b, f.Flags)
	for _, i := range f.Program {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*Filter, error) {
	switch {
	case len(b) == 1 && b[0] == 0:
		return nil, nil
	case len(b) < 13 || b[0] != 1 || (len(b)-5)%8 != 0 || (len(b)-5)/8 > maxInstructions:
		return nil, errors.New("cannot read a seccomp filter: it is damaged")
	}
	f := &Filter{Flags: binary.NativeEndian.Uint32(b[1:])}
	for b = b[5:]; len(b) > 0; b = b[8:] {
		f.Program = append(f.Program, unix.SockFilter{
			Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:]),
		})
	}
	return f, nil
}
