package supervise

import "testing"

func TestReadOnlyMapping(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-01a2b000 r-xp 00000000 fe:00 1234                               /usr/bin/stack":         true,
		"01a2b000-02a00000 r--p 0162b000 fe:00 1234                               /usr/bin/stack":         true,
		"02a00000-02b00000 rw-p 02600000 fe:00 1234                               /usr/bin/stack":         false,
		"00400000-01a2b000 r-xp 00000000 00:01 1234                               /memfd:stack (deleted)": false,
		"c000000000-c000400000 rw-p 00000000 00:00 0 ":                                                    false,
		"55d000400000-55d001a2b000 r--p 00000000 fe:00 1234                       /usr/bin/stack":         false,
		"nonsense": false,
	} {
		from, to, ok := readOnlyMapping(line, "/usr/bin/stack")
		if ok != want || ok && from >= to {
			t.Errorf("%q: %x %x %t", line, from, to, ok)
		}
	}
	dropText() // and the test goes on
}
