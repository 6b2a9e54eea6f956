package endpoint

import (
	"bytes"
	"net"
	"testing"
)

// What is taken for a MAC address is what the standard library takes for one of
// six bytes.
func TestParseMAC(t *testing.T) {
	for _, text := range []string{
		"02:42:ac:10:00:02", "02-42-AC-10-00-02", "0242.ac10.0002", "", "02:42:ac:10:00", "02:42:ac:10:00:02:03:04",
		"02:42:ac:10:00:0g", "02:42-ac:10:00:02", "0242:ac10:0002", "2:42:ac:10:00:02x", "02:42:ac:10:0:002", "02.42.ac.10.00.02",
	} {
		want, err := net.ParseMAC(text)
		mac, ok := parseMAC(text)
		if (err == nil && len(want) == 6) != ok || ok && !bytes.Equal(mac[:], want) {
			t.Errorf("%q: %x %v, want %v %v", text, mac, ok, want, err)
		}
	}
}
