package cli

import (
	"strings"
	"testing"
	"time"
)

func TestPruneFilters(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	a := &App{Now: func() time.Time { return now }}
	for _, test := range []struct {
		options string
		want    bool
	}{
		{"", true}, {"label=a", true}, {"label=a=1", true}, {"label=a=2", false}, {"label=a label=c", false},
		{"label!=a", false}, {"label!=a=2", true}, {"label!=c label!=b", false}, {"label=a label!=c", true},
		{"until=1h", true}, {"until=3h", false},
	} {
		f, err := a.PruneFilters(strings.Fields(test.options))
		if got := f.Match(now.Add(-2*time.Hour), map[string]string{"a": "1", "b": ""}); err != nil || got != test.want {
			t.Errorf("%q: %t, %v", test.options, got, err)
		}
	}
}
