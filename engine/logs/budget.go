package logs

import "math"

// Budget is how much of a log is kept.
type Budget struct {
	MaxSize  int64 // bytes of a segment, its index included; ≤ 0: no limit
	MaxFiles int   // segments; ≤ 0: no limit
}

// DefaultBudget keeps at most 50 MiB of each container.
func DefaultBudget() Budget { return Budget{MaxSize: 10 << 20, MaxFiles: 5} }

// unlimitedSegment is a segment's size where the user sets no limit.
const unlimitedSegment = 64 << 20

// normal returns a budget with which segments can be cut: finite segments, at
// least two, so that deleting the oldest never deletes all.
func (b Budget) normal() Budget {
	if b.MaxSize <= 0 {
		return Budget{MaxSize: unlimitedSegment, MaxFiles: math.MaxInt}
	}
	if b.MaxFiles <= 0 {
		b.MaxFiles = math.MaxInt
	}
	if b.MaxFiles == 1 {
		b = Budget{MaxSize: b.MaxSize / 2, MaxFiles: 2}
	}
	b.MaxSize = max(b.MaxSize, 512)
	return b
}
