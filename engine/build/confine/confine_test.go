package confine

import "testing"

func TestShared(t *testing.T) {
	auto, other := Confinement{UserNS: "auto", Project: "a"}, Confinement{UserNS: "200000:65536"}
	for _, tt := range []struct {
		all  []Confinement
		want Confinement
	}{
		{nil, Confinement{}},
		{[]Confinement{auto}, auto},
		{[]Confinement{auto, other}, auto},
		{[]Confinement{auto, {}}, Confinement{}},
		{[]Confinement{{}, auto}, Confinement{}},
	} {
		if got := shared(tt.all); got != tt.want {
			t.Errorf("%v share %v, want %v", tt.all, got, tt.want)
		}
	}
}
