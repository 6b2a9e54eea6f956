package compression

import (
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func TestReaderDetectsFormat(t *testing.T) {
	text := bytes.Repeat([]byte("some text that compresses "), 1000)
	write := func(f func(io.Writer) (io.WriteCloser, error)) []byte {
		var b bytes.Buffer
		w, err := f(&b)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(text)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for format, data := range map[Format][]byte{
		None: text,
		Gzip: write(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		Zstd: write(func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		XZ:   write(func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
	} {
		r, got, err := NewReader(bytes.NewReader(data))
		if err != nil || got != format {
			t.Fatalf("%q: detected %q, %v", format, got, err)
		}
		back, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(back, text) {
			t.Errorf("%q: %d bytes, %v", format, len(back), err)
		}
		if format == None {
			continue
		}
		r, _, err = NewReader(bytes.NewReader(data[:len(data)-5]))
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if err == nil {
			t.Errorf("%q: truncated stream was read without an error", format)
		}
	}
}

func TestWriter(t *testing.T) {
	random := make([]byte, 3*blockSize+17)
	rand.NewChaCha8([32]byte{}).Read(random)
	for name, text := range map[string][]byte{
		"empty": nil, "short": []byte("x"), "one block": bytes.Repeat([]byte("ab"), blockSize/2), "random": random, "long": bytes.Repeat([]byte("some text "), blockSize),
	} {
		var once []byte
		for _, piece := range []int{len(text) + 1, 1000, blockSize} {
			var b bytes.Buffer
			w := NewWriter(&b)
			for rest := text; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
				if _, err := w.Write(rest[:min(piece, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if once == nil {
				once = b.Bytes()
			} else if !bytes.Equal(once, b.Bytes()) {
				t.Errorf("%s: the pieces it is written in change the result", name)
			}
			std, err := stdgzip.NewReader(&b)
			if err != nil {
				t.Fatal(err)
			}
			back, err := io.ReadAll(std)
			if err != nil || !bytes.Equal(back, text) {
				t.Errorf("%s: %d bytes became %d, %v", name, len(text), len(back), err)
			}
		}
	}
}

type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	for _, n := range []int{0, 5, 20, 2 << 20} {
		w := NewWriter(&failing{n})
		data := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{}).Read(data)
		for range 50 {
			if _, err := w.Write(data); err != nil {
				break
			}
		}
		if err := w.Close(); err != io.ErrShortWrite {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestEmptyStream(t *testing.T) {
	r, format, err := NewReader(bytes.NewReader(nil))
	if err != nil || format != None {
		t.Fatal(format, err)
	}
	if data, err := io.ReadAll(r); err != nil || len(data) != 0 {
		t.Fatal(data, err)
	}
}
