package snapshot

import (
	"fmt"
)

// Limits bound what one archive may unpack to, against archives that are small
// and unpack to more than a disk holds. Zero means no limit.
type Limits struct {
	Bytes   int64 // length of all files together
	Entries int   // files, directories and so on
}

// DefaultLimits are far above what images need: 256 GiB and 8 million entries.
func DefaultLimits() Limits {
	return Limits{Bytes: 256 << 30, Entries: 8 << 20}
}

func (l Limits) checkEntries(n int) error {
	if l.Entries > 0 && n > l.Entries {
		return fmt.Errorf("it has more than %d entries, the limit for one archive", l.Entries)
	}
	return nil
}

// checkBytes tells whether more bytes may follow have. A sparse file may claim a
// length that added to others overflows.
func (l Limits) checkBytes(have, more int64) error {
	if l.Bytes > 0 && more > l.Bytes-have {
		return fmt.Errorf("its files have more than %d MiB, the limit for one archive", l.Bytes>>20)
	}
	return nil
}
