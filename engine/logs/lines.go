package logs

import (
	"bytes"
	"time"
)

// maxPiece is the longest Entry.Data, bytes. A longer line comes in pieces.
const maxPiece = 256 << 10

// Entry is one line, or a piece of one.
type Entry struct {
	Time   time.Time // when the end of Data was stored
	Stream Stream
	// Data is the line without its newline, valid until the callback returns.
	Data []byte
	// Partial says that no newline follows Data: the line goes on in the next
	// entry of the stream, or the container ended without finishing it.
	Partial bool
	// Unfinished says of a Partial entry that nothing more comes of its line.
	Unfinished bool
	// End is where reading goes on behind the entry: zero after a piece of a line,
	// which reading begins with from its start.
	End Position
}

// splitter cuts one stream into lines.
type splitter struct {
	stream  Stream
	pending []byte
	time    int64
	emit    func(Entry) error
	left    int  // bytes behind the line in what was fed
	skip    bool // what comes before the next newline
	closing bool // only what the pending line lacks is taken
}

// feed takes bytes that were stored at a time.
func (x *splitter) feed(now int64, b []byte) error {
	if x.closing {
		if len(x.pending) == 0 {
			return nil
		}
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[:i+1]
		}
	}
	if x.skip {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return nil
		}
		x.skip, b = false, b[i+1:]
	}
	x.time = now
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			x.pending = append(x.pending, b...)
			b = nil
		} else if len(x.pending) == 0 {
			x.left = len(b) - i - 1
			if err := x.send(b[:i], false); err != nil {
				return err
			}
			b = b[i+1:]
			continue
		} else {
			x.pending = append(x.pending, b[:i]...)
			b = b[i+1:]
		}
		x.left = len(b)
		for len(x.pending) > maxPiece {
			if err := x.send(x.pending[:maxPiece], true); err != nil {
				return err
			}
			x.pending = append(x.pending[:0], x.pending[maxPiece:]...)
		}
		if i >= 0 {
			if err := x.send(x.pending, false); err != nil {
				return err
			}
			x.pending = x.pending[:0]
		}
	}
	return nil
}

// end gives out a line that was not finished.
func (x *splitter) end() error {
	var err error
	if len(x.pending) > 0 && x.time != 0 { // else all of it is older than what is read
		err = x.emit(Entry{Time: time.Unix(0, x.time), Stream: x.stream, Data: x.pending, Partial: true, Unfinished: true})
	}
	x.pending, x.skip = nil, false
	return err
}

func (x *splitter) send(b []byte, partial bool) error {
	return x.emit(Entry{Time: time.Unix(0, x.time), Stream: x.stream, Data: b, Partial: partial})
}
