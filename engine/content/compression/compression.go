// Package compression reads and writes the compressed streams that image
// layers and archives come in. The format is told by the first bytes, never by
// a name or media type.
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Format is a compression format.
type Format string

const (
	None  Format = ""
	Gzip  Format = "gzip"  // RFC 1952
	Zstd  Format = "zstd"  // RFC 8878
	Bzip2 Format = "bzip2" // read only
	XZ    Format = "xz"    // read only
)

// maxWindow bounds the memory a zstd stream may ask for: the window of
// "zstd --long=27", the most that zstd itself accepts without being told.
const maxWindow = 128 << 20

// Detect tells the format of a stream that starts with head (6 bytes do).
func Detect(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // a skippable frame comes first
	case bytes.HasPrefix(head, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ
	}
	return None
}

// NewReader returns what r is when decompressed, and r's format. Closing it
// frees the decompressor and leaves r open.
func NewReader(r io.Reader) (io.ReadCloser, Format, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, None, err
	}
	format := Detect(head)
	rc, err := newReader(br, format)
	if err != nil {
		return nil, format, fmt.Errorf("cannot decompress %s: %w", format, err)
	}
	return rc, format, nil
}

func newReader(br *bufio.Reader, format Format) (io.ReadCloser, error) {
	switch format {
	case Gzip:
		return gzip.NewReader(br)
	case Zstd:
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(br)), nil
	case XZ:
		x, err := xz.NewReader(br)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	}
	return io.NopCloser(br), nil
}
