// Package logs stores what containers print so that a killed process of ours
// neither loses nor doubles a byte.
//
// # How bytes travel
//
// A container's stdout and stderr are FIFOs in its run directory. Its ends are
// open for reading and writing, so a missing reader is no SIGPIPE, only a full
// pipe. A Pump moves bytes with splice(2) from the FIFO to a file at an explicit
// offset: taking them out of the one and storing them in the other is one
// system call, which SIGKILL can shorten but not split. What was not stored is
// still in the FIFO, as long as any process has it open: the container, or
// after its end whoever keeps a descriptor for that purpose.
//
// # The store
//
// A log is one directory of numbered segments. Segment 7 is
//
//	00000007.idx   fixed-size records, see below
//	00000007.out   what was written to stdout, byte for byte
//	00000007.err   the same of stderr
//
// With compress, the raw files of complete segments have ".gz" behind their names, see
// pack.go. "delivered" says how far the log was sent elsewhere, see [Bookmark].
//
// A record says "at this time the file of stdout ended at this offset", so
// the records' order is the order of the two streams' pieces, and their times
// are the lines' times. Other records mark the start and the end of a run of
// the container, lost bytes, and the end of the log; one that says that a stream
// ends at 0 tells that the segment begins with a line of it. Files only
// grow; a segment is complete when the next one exists.
//
// A pump that was killed between splice and record leaves a raw file that is
// longer than its index knows; the next pump adds the record, with the file's
// mtime as time. After a power failure the index may end in a torn record or
// know more than the raw file has: such records are cut off.
//
// The flock(2) of the directory is the pump's, so that there is only one. A
// lossless reader holds a shared flock on the index of the segment it reads;
// the pump deletes segments from the oldest on, and only under an exclusive one.
// With its budget used up by segments it may not delete, it leaves the bytes in
// the FIFO, which in the end makes the container wait: what attach and a
// foreground run promise.
//
// What cannot be stored because something is scarce, such as room on the disk,
// stays in the FIFO, too, even after the container's end: then for its next start.
//
// # Lines
//
// A line belongs to the time at which its newline was stored. Lines come in the
// order of their newlines, so times never run backwards within a log unless the
// clock does.
package logs
