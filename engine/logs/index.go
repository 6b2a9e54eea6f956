package logs

import (
	"encoding/binary"
	"hash/crc32"
)

// Stream is one of a container's two outputs.
type Stream uint8

const (
	Stdout Stream = iota
	Stderr
)

// String returns Docker's name of the stream.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// kind tells what an index record says. The values are on disk.
type kind uint8

const (
	kindOut      kind = 1 // stdout's raw file ends at value
	kindErr      kind = 2 // stderr's raw file ends at value
	kindRunStart kind = 3 // the container's process starts
	kindRunEnd   kind = 4 // it ended and all it printed is stored
	kindLost     kind = 5 // value bytes could not be stored
	kindDone     kind = 6 // the log ends: the container is removed
)

func dataKind(s Stream) kind { return kindOut + kind(s) }

// stream returns the stream of a data record.
func (k kind) stream() (Stream, bool) {
	return Stream(k - kindOut), k == kindOut || k == kindErr
}

// recordSize is the size of a record on disk, bytes:
//
//	0  int64   time, nanoseconds since 1970 UTC
//	8  int64   value
//	16 uint8   kind
//	17         three zero bytes
//	20 uint32  CRC-32 (IEEE) of the segment's number (uint64) and bytes 0-19
//
// All numbers are little-endian.
const recordSize = 24

type record struct {
	time  int64
	value int64
	kind  kind
}

func (r record) append(b []byte, segment uint64) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.time))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.value))
	b = append(b, byte(r.kind), 0, 0, 0)
	return binary.LittleEndian.AppendUint32(b, recordSum(b[at:], segment))
}

// decodeRecord reads the record at the start of b; ok is false where there is
// no valid one.
func decodeRecord(b []byte, segment uint64) (r record, ok bool) {
	if len(b) < recordSize {
		return r, false
	}
	r.time = int64(binary.LittleEndian.Uint64(b))
	r.value = int64(binary.LittleEndian.Uint64(b[8:]))
	r.kind = kind(b[16])
	return r, binary.LittleEndian.Uint32(b[20:]) == recordSum(b[:20], segment)
}

func recordSum(b []byte, segment uint64) uint32 {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], segment)
	return crc32.Update(crc32.ChecksumIEEE(n[:]), crc32.IEEETable, b)
}

// repair returns how many bytes of an index are to be kept, given the sizes of
// the two raw files, and where the index then says these end. It stops at the
// first record that is torn, or that knows of bytes the raw file does not have
// (the index reached the disk before a power failure and they did not).
func repair(index []byte, segment uint64, raw [2]int64) (keep int64, ends [2]int64, last record) {
	for {
		r, ok := decodeRecord(index[keep:], segment)
		if !ok {
			return keep, ends, last
		}
		if s, data := r.kind.stream(); data {
			if r.value < ends[s] || r.value > raw[s] {
				return keep, ends, last
			}
			ends[s] = r.value
		}
		last = r
		keep += recordSize
	}
}
