package client

import (
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/engine/build/request"
)

func TestPrunable(t *testing.T) {
	at := func(hour int) *time.Time { d := time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC); return &d }
	all := []request.Record{
		{ID: "base", Size: 100, Shared: true, Type: "regular", LastUsedAt: at(9), UsageCount: 3},
		{ID: "step", Size: 10, Parents: []string{"base"}, Type: "regular", LastUsedAt: at(5), UsageCount: 2},
		{ID: "leaf", Size: 20, Parents: []string{"step"}, Type: "regular", LastUsedAt: at(8), UsageCount: 1},
		{ID: "mount", Size: 5, Type: "exec.cachemount", LastUsedAt: at(7), UsageCount: 1},
		{ID: "frontend", Size: 1, Type: "frontend"},
		{ID: "running", Size: 7, InUse: true, Type: "regular", LastUsedAt: at(9)},
	}
	for _, test := range []struct {
		name     string
		q        request.Cache
		matching string // IDs; "": all
		since    *time.Time
		want     string
	}{
		{"what no image shares", request.Cache{}, "", nil, "leaf mount step"},
		{"all", request.Cache{All: true}, "", nil, "leaf mount frontend step base"},
		{"a filter does not take what others build on", request.Cache{}, "step mount", nil, "mount"},
		{"what was used lately stays, and so does what it is built on", request.Cache{}, "", at(7), "mount"},
		{"until little enough is left", request.Cache{MaxUsed: 38}, "", nil, "mount leaf"},
		{"what is reserved stays", request.Cache{MaxUsed: 1, Reserved: 43}, "", nil, "mount"},
		{"enough", request.Cache{MaxUsed: 1000}, "", nil, ""},
	} {
		r := rules{all: test.q.All, matching: map[string]bool{}, keep: keepBytes(all, &test.q, 0)}
		for _, x := range all {
			r.matching[x.ID] = test.matching == "" || strings.Contains(test.matching, x.ID)
		}
		if test.since != nil {
			r.unusedSince = *test.since
		}
		var got []string
		for _, x := range r.prunable(all) {
			got = append(got, x.ID)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %s", test.name, got, test.want)
		}
	}
}

func TestKeepBytes(t *testing.T) {
	all := []request.Record{{Size: 100}, {Size: 50, Shared: true}}
	for _, test := range []struct {
		q          request.Cache
		free, want int64
	}{
		{request.Cache{}, 0, 0},
		{request.Cache{MaxUsed: 10}, 0, 10},
		{request.Cache{MinFree: 30}, 10, 80},
		{request.Cache{MinFree: 30}, 40, 100},
		{request.Cache{MinFree: 30, MaxUsed: 90}, 10, 80},
		{request.Cache{MinFree: 30, MaxUsed: 60}, 10, 60},
		{request.Cache{MinFree: 300, Reserved: 20}, 10, 20},
	} {
		if got := keepBytes(all, &test.q, test.free); got != test.want {
			t.Errorf("%+v with %d free: %d, want %d", test.q, test.free, got, test.want)
		}
	}
}
