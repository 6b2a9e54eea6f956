package snapshot

import (
	"slices"
	"testing"
)

func TestUppermostKeepsTheLastOfEachLayer(t *testing.T) {
	got := uppermost([]string{"empty", "a", "empty", "b", "a"})
	if want := []string{"empty", "b", "a"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := uppermost(nil); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
