package compression

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/klauspost/compress/flate"
)

// level is the one that keeps up with a disk; higher ones take twice the time to
// save a tenth.
const level = flate.BestSpeed

// blockSize is how much each goroutine compresses at a time. Blocks know nothing
// of each other, which costs less than one per cent in size.
const blockSize = 1 << 20

// header is that of a gzip member without name and time (RFC 1952, section
// 2.3), so that the same content makes the same bytes.
var header = [...]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255}

// NewWriter compresses into w with gzip, the format that every registry and tool
// reads, on all CPUs. Close ends the stream and leaves w open.
func NewWriter(w io.Writer) io.WriteCloser {
	workers := max(1, min(runtime.GOMAXPROCS(0), 8))
	g := &writer{
		w:      w,
		queue:  make(chan *block, workers),
		free:   make(chan *block, 2*workers),
		done:   make(chan error, 1),
		failed: make(chan struct{}),
	}
	for range 2 * workers {
		g.free <- &block{in: make([]byte, 0, blockSize)}
	}
	go g.write()
	return g
}

// writer cuts what it is given into blocks. Each becomes a run of deflate blocks
// that ends at a byte boundary (RFC 1951, an empty stored block), so that
// together, in order, they are one stream.
type writer struct {
	w      io.Writer
	sum    uint32
	length uint32
	fill   *block
	queue  chan *block // in order
	free   chan *block
	done   chan error
	failed chan struct{} // closed when writing has failed
	closed bool
}

type block struct {
	in    []byte
	out   sliceWriter
	ready chan error
	z     *flate.Writer
}

type sliceWriter []byte

func (s *sliceWriter) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

func (g *writer) Write(p []byte) (int, error) {
	total := len(p)
	g.sum = crc32.Update(g.sum, crc32.IEEETable, p)
	g.length += uint32(len(p)) // modulo 2^32, as RFC 1952 wants it
	for len(p) > 0 {
		if g.fill == nil {
			select {
			case g.fill = <-g.free:
			case <-g.failed:
				return 0, errors.New("cannot write compressed data")
			}
		}
		n := min(len(p), blockSize-len(g.fill.in))
		g.fill.in = append(g.fill.in, p[:n]...)
		p = p[n:]
		if len(g.fill.in) == blockSize {
			g.submit()
		}
	}
	return total, nil
}

// submit gives the block in the making to a goroutine.
func (g *writer) submit() {
	b := g.fill
	g.fill = nil
	b.ready = make(chan error, 1)
	go func() { b.ready <- b.compress() }()
	g.queue <- b // free bounds how many there are, so this waits only for write
}

func (b *block) compress() error {
	b.out = b.out[:0]
	if b.z == nil {
		var err error
		if b.z, err = flate.NewWriter(&b.out, level); err != nil {
			return err
		}
	} else {
		b.z.Reset(&b.out)
	}
	if _, err := b.z.Write(b.in); err != nil {
		return err
	}
	return b.z.Flush()
}

// write writes the blocks in their order.
func (g *writer) write() {
	_, err := g.w.Write(header[:])
	if err != nil {
		close(g.failed)
	}
	for b := range g.queue {
		ready := <-b.ready
		if err != nil {
			continue
		}
		if err = ready; err == nil {
			_, err = g.w.Write(b.out)
		}
		if err != nil {
			close(g.failed)
			continue
		}
		b.in = b.in[:0]
		g.free <- b
	}
	g.done <- err
}

// Close writes what is left and the trailer. The error is the first that
// writing had.
func (g *writer) Close() error {
	if g.closed {
		return nil
	}
	g.closed = true
	if g.fill != nil && len(g.fill.in) > 0 {
		g.submit()
	}
	close(g.queue)
	if err := <-g.done; err != nil {
		return err
	}
	// A last, empty block with fixed codes, then checksum and length.
	end := []byte{0x03, 0x00}
	end = binary.LittleEndian.AppendUint32(end, g.sum)
	end = binary.LittleEndian.AppendUint32(end, g.length)
	_, err := g.w.Write(end)
	return err
}
