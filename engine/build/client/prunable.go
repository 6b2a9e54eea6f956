package client

import (
	"cmp"
	"slices"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/stack-run/stack/engine/build/request"
)

// rules are what BuildKit prunes its cache by (cache/manager.go, prune), which
// has no dry run of its own.
type rules struct {
	all         bool            // what is internal or shared, too
	matching    map[string]bool // by the filters
	unusedSince time.Time       // zero: used when ever
	keep        int64           // bytes that the cache may keep, 0: none
}

// keepBytes is how much of the cache the sizes in q let it keep, when a disk has
// free bytes. 0 means that no size was given.
func keepBytes(all []request.Record, q *request.Cache, free int64) int64 {
	if q.MaxUsed == 0 && q.Reserved == 0 && q.MinFree == 0 {
		return 0
	}
	keep, total := q.MaxUsed, request.Records{Records: all}.Size()
	if missing := q.MinFree - free; missing > 0 {
		if keep = min(keep, total-missing); q.MaxUsed == 0 {
			keep = total - missing
		}
	} else if q.MinFree != 0 && keep == 0 {
		keep = total
	}
	return max(keep, q.Reserved)
}

// prunable returns those of all records that go, in the order in which they do:
// what nothing is built on any more, time and again. With a size to keep it is
// one at a time, and only until that is reached.
func (r rules) prunable(all []request.Record) []request.Record {
	total := request.Records{Records: all}.Size()
	left := slices.Clone(all)
	var gone []request.Record
	for r.keep == 0 || total >= r.keep {
		parents := make(map[string]bool)
		for _, x := range left {
			for _, p := range x.Parents {
				parents[p] = true
			}
		}
		var next []request.Record
		for _, x := range left {
			if !parents[x.ID] && r.takes(x) {
				next = append(next, x)
			}
		}
		if len(next) == 0 {
			break
		}
		if r.keep != 0 {
			next = leastWorth(next)[:1]
		}
		for _, x := range next {
			total -= x.Size
		}
		gone = append(gone, next...)
		left = slices.DeleteFunc(left, func(x request.Record) bool {
			return slices.ContainsFunc(next, func(y request.Record) bool { return x.ID == y.ID })
		})
	}
	return gone
}

// takes tells whether a record that nothing is built on may go.
func (r rules) takes(x request.Record) bool {
	internal := x.Type == string(client.UsageRecordTypeInternal) || x.Type == string(client.UsageRecordTypeFrontend)
	recent := !r.unusedSince.IsZero() && x.LastUsedAt != nil && x.LastUsedAt.After(r.unusedSince)
	return !x.InUse && r.matching[x.ID] && !recent && (r.all || !internal && !x.Shared)
}

// leastWorth sorts records by how long ago and how seldom they were used, both
// counting the same.
func leastWorth(records []request.Record) []request.Record {
	rank := make(map[string]float64)
	count := func(compare func(a, b request.Record) int) {
		slices.SortStableFunc(records, compare)
		place := make([]float64, len(records))
		last := 1.0
		for i := range records {
			if i > 0 && compare(records[i-1], records[i]) != 0 {
				last++
			}
			place[i] = last
		}
		for i, x := range records {
			rank[x.ID] += place[i] / last
		}
	}
	count(func(a, b request.Record) int { return lastUsed(a).Compare(lastUsed(b)) })
	count(func(a, b request.Record) int { return cmp.Compare(a.UsageCount, b.UsageCount) })
	slices.SortStableFunc(records, func(a, b request.Record) int { return cmp.Compare(rank[a.ID], rank[b.ID]) })
	return records
}

func lastUsed(x request.Record) time.Time {
	if x.LastUsedAt == nil {
		return time.Time{}
	}
	return *x.LastUsedAt
}
