package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stack-run/stack/engine/content/compression"
)

// ExtractOptions say what Extract makes of an archive.
type ExtractOptions struct {
	// Devices has character and block devices made. Else they are left out: whoever
	// can reach one by a path has the device, whatever control groups say.
	Devices bool
	Limits  Limits
}

// Extracted is what Extract did.
type Extracted struct {
	Entries int
	Omitted int // devices that were left out
}

// Extract unpacks an archive, which may be compressed, into the empty directory dir,
// to which nobody else writes. It takes the archive for hostile as that of a layer, and
// no name in it for a whiteout. Overlayfs' own attributes are left out. An archive that
// is empty or was cut off is an error, also where the end of an entry is missing only.
func Extract(ctx context.Context, dir string, r io.Reader, o ExtractOptions) (Extracted, error) {
	r, stop := interruptible(ctx, r)
	defer stop()
	raw, _, err := compression.NewReader(r)
	if err != nil {
		return Extracted{}, err
	}
	defer raw.Close()
	u, err := newUnpacker(dir, "", o.Limits)
	if err != nil {
		return Extracted{}, err
	}
	u.plain, u.devices = true, o.Devices
	end := &tailReader{r: raw}
	ahead := bufio.NewReaderSize(end, 64<<10) // which the unpacker takes as it is
	err = u.unpack(ctx, ahead)
	if err == nil {
		err = padding(contentReader{ctx, ahead})
	}
	err = errors.Join(err, u.close())
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && u.info.Entries == 0:
		err = errors.New("the archive has no entries; is it a tar archive?")
	case err == nil && !end.marked():
		err = errors.New("the archive is truncated: its end marker is missing")
	}
	return Extracted{Entries: u.info.Entries, Omitted: u.omitted}, err
}

// maxPadding is far more zeros than any program pads an archive with.
const maxPadding = 64 << 20

// padding reads what follows an archive, after which comes its checksum, if it is
// compressed. Another archive would be lost.
func padding(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for total := 0; ; {
		n, err := r.Read(buf)
		if total += n; !allZero(buf[:n]) || total > maxPadding {
			return errors.New("something follows the end of the archive; import one archive at a time")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the archive cannot be read to its end: %w", err)
		}
	}
}

// interruptible is r until ctx ends or stop is called: a read of a terminal or a pipe
// cannot be called off.
func interruptible(ctx context.Context, r io.Reader) (_ io.Reader, stop func()) {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(pw, r, make([]byte, 256<<10))
		pw.CloseWithError(err)
	}()
	forget := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	return pr, func() {
		forget()
		pr.Close()
	}
}

// tarBlock is the unit of an archive; its end is marked by blocks of zeros, tar(5).
const tarBlock = 512

// tailReader remembers the end of what was read.
type tailReader struct {
	r    io.Reader
	tail []byte
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.tail = append(t.tail, p[max(0, n-tarBlock):n]...)
	t.tail = append(t.tail[:0], t.tail[max(0, len(t.tail)-tarBlock):]...)
	return n, err
}

// marked says that a block of zeros came last.
func (t *tailReader) marked() bool { return bytes.Equal(t.tail, make([]byte, tarBlock)) }
