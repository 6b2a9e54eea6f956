package watch

import "time"

// What is seen of a path.
type Sighting int

const (
	Complete Sighting = iota // it is what it will be: closed, renamed, linked
	Open                     // it is being written
	Missing                  // it was deleted, or renamed away
)

// How long nothing may happen before a batch is complete. An editor that writes a
// file beside its place and renames it is done at once; one that renames the old
// file away first needs time to write the new one; and a tool that changes many
// files (a branch switch) is to be seen as a whole.
const (
	quiet        = 8 * time.Millisecond
	quietMissing = 60 * time.Millisecond
	quietOpen    = 150 * time.Millisecond
	quietMany    = 60 * time.Millisecond  // beyond many paths
	quietLots    = 250 * time.Millisecond // beyond lots
	many, lots   = 3, 512
	// longest bounds a batch where something is written all the time.
	longest = 3 * time.Second
)

// Batch gathers paths until nothing happens any more. The zero value is empty.
type Batch struct {
	paths         map[string]Sighting
	open, missing int
	first, last   time.Time
}

// See adds what is seen of a path.
func (b *Batch) See(name string, s Sighting, now time.Time) {
	if b.paths == nil {
		b.paths = map[string]Sighting{}
	}
	if len(b.paths) == 0 {
		b.first = now
	}
	b.last = now
	if before, ok := b.paths[name]; ok {
		b.count(before, -1)
	}
	b.paths[name] = s
	b.count(s, 1)
}

func (b *Batch) count(s Sighting, n int) {
	switch s {
	case Open:
		b.open += n
	case Missing:
		b.missing += n
	}
}

// Len is how many paths there are.
func (b *Batch) Len() int { return len(b.paths) }

// First is when the first of them was seen.
func (b *Batch) First() time.Time { return b.first }

// Due is when the batch is complete, if nothing happens until then.
func (b *Batch) Due() time.Time {
	wait := quiet
	if b.missing > 0 || len(b.paths) > many {
		wait = max(quietMissing, quietMany)
	}
	if b.open > 0 {
		wait = max(wait, quietOpen)
	}
	if len(b.paths) > lots {
		wait = max(wait, quietLots)
	}
	if due, end := b.last.Add(wait), b.first.Add(longest); due.Before(end) {
		return due
	} else {
		return end
	}
}

// Take empties the batch.
func (b *Batch) Take() map[string]Sighting {
	paths := b.paths
	*b = Batch{}
	return paths
}
