package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/internal/lock"
)

// PruneFilter says which unused volumes to remove.
type PruneFilter struct {
	All       bool     // named ones too, not only anonymous ones
	Labels    []string // "key" or "key=value", all must match
	NotLabels []string // the same, none may match
}

// PruneReport says what was removed.
type PruneReport struct {
	Deleted   []string `json:"deleted"`
	Reclaimed int64    `json:"reclaimed"` // bytes
}

// ParsePruneFilter reads Docker's filter words, such as "all=true",
// "label=a=b" and "label!=keep".
func ParsePruneFilter(filters []string) (PruneFilter, error) {
	var f PruneFilter
	for _, s := range filters {
		switch {
		case strings.HasPrefix(s, "label!="):
			f.NotLabels = append(f.NotLabels, s[len("label!="):])
		case strings.HasPrefix(s, "label="):
			f.Labels = append(f.Labels, s[len("label="):])
		case s == "all=true" || s == "all=1":
			f.All = true
		case s == "all=false" || s == "all=0":
			f.All = false
		default:
			return f, fmt.Errorf("cannot use filter %q: volumes are pruned by all=true, label=KEY[=VALUE] or label!=KEY[=VALUE]", s)
		}
	}
	return f, nil
}

func (f PruneFilter) match(v Volume) bool {
	has := func(want string) bool {
		k, val, withValue := strings.Cut(want, "=")
		got, ok := v.Labels[k]
		return ok && (!withValue || got == val)
	}
	return (f.All || v.Anonymous) &&
		!slices.ContainsFunc(f.Labels, func(l string) bool { return !has(l) }) &&
		!slices.ContainsFunc(f.NotLabels, has)
}

// Prune removes the volumes that match and that nobody uses. It goes on after
// an error and reports what it did remove.
func (s *Store) Prune(ctx context.Context, filter PruneFilter, inUse func(name string) bool) (PruneReport, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return PruneReport{}, err
	}
	gone, err := s.retireMatching(ctx, filter, inUse)
	err = errors.Join(err, s.sweepFills())
	unlock()

	errs := []error{err}
	var report PruneReport
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		n, err := diskUsage(gone[name])
		errs = append(errs, err)
		report.Deleted = append(report.Deleted, name)
		report.Reclaimed += n
	}
	errs = append(errs, s.sweep())
	return report, errors.Join(errs...)
}

// Prunable tells what Prune would remove.
func (s *Store) Prunable(ctx context.Context, filter PruneFilter, inUse func(name string) bool) (PruneReport, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return PruneReport{}, err
	}
	defer unlock()
	list, err := s.List()
	errs := []error{err}
	var report PruneReport
	for _, v := range list {
		if !filter.match(v) || inUse(v.Name) {
			continue
		}
		free, err := s.free(v.Name)
		if err == nil && free {
			var n int64
			n, err = diskUsage(s.dir(v.Name))
			report.Deleted = append(report.Deleted, v.Name)
			report.Reclaimed += n
		}
		errs = append(errs, err)
	}
	slices.Sort(report.Deleted)
	return report, errors.Join(errs...)
}

// free tells whether nobody fills or otherwise works on a volume.
func (s *Store) free(name string) (bool, error) {
	held, free, err := lock.TryExclusive(s.dir(name), lock.Dir())
	if err != nil || !free {
		return false, err
	}
	return true, held.Unlock()
}

// retireMatching returns where the content of each removed volume went.
func (s *Store) retireMatching(ctx context.Context, filter PruneFilter, inUse func(name string) bool) (map[string]string, error) {
	list, err := s.List()
	errs := []error{err}
	gone := map[string]string{}
	for _, v := range list {
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		if !filter.match(v) || inUse(v.Name) {
			continue
		}
		path, err := s.retire(v.Name, nil)
		var busy *InUseError
		switch {
		case err == nil:
			gone[v.Name] = path
		case !errors.As(err, &busy): // being filled is a use
			errs = append(errs, err)
		}
	}
	return gone, errors.Join(errs...)
}
