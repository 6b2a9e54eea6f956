package volume

import "testing"

func TestStored(t *testing.T) {
	for _, tt := range []struct {
		mount      Mount
		kind, name string
		withheld   bool
	}{
		{Mount{Type: TypeFile, ContentFrom: StoreSource("secret", "db"), Secret: true}, "secret", "db", true},
		{Mount{Type: TypeFile, ContentFrom: StoreSource("config", "a.b")}, "config", "a.b", true},
		{Mount{Type: TypeFile, ContentFrom: "file:/store:secret/db"}, "", "", false},
		{Mount{Type: TypeFile, ContentFrom: "environment:X", Secret: true}, "", "", true},
		{Mount{Type: TypeFile, ContentFrom: "store:broken"}, "", "", false},
		{Mount{Type: TypeBind, ContentFrom: StoreSource("secret", "db")}, "", "", false},
	} {
		kind, name, ok := tt.mount.Stored()
		if !ok {
			kind, name = "", ""
		}
		if kind != tt.kind || name != tt.name || ok != (tt.kind != "") || tt.mount.Withheld() != tt.withheld {
			t.Errorf("%+v: %q, %q, %v, withheld %v", tt.mount, kind, name, ok, tt.mount.Withheld())
		}
	}
}
