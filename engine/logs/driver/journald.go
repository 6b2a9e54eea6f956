package driver

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// journalSocket is where systemd-journald listens (systemd's JOURNAL_NATIVE_PROTOCOL).
const journalSocket = "/run/systemd/journal/socket"

// Priorities of syslog(3) for the two streams.
const (
	severityError = 3
	severityInfo  = 6
)

func severity(l Line) int {
	if l.Stderr {
		return severityError
	}
	return severityInfo
}

func journald(*options) *Target {
	t := newTarget("journald", "unixgram", journalSocket)
	t.write = writeJournal
	t.encoder = journalEncoder
	return t
}

// journalEncoder names the fields as Docker's driver does.
func journalEncoder(i *Info) (encoder, error) {
	tag, err := i.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	fields, err := i.Attributes(journalField)
	if err != nil {
		return nil, err
	}
	delete(fields, "") // a name without a letter or digit
	maps.Copy(fields, map[string]string{
		"CONTAINER_ID": i.ID(), "CONTAINER_ID_FULL": i.FullID(), "CONTAINER_NAME": i.Name(), "CONTAINER_TAG": tag,
		"IMAGE_NAME": i.ImageName(), "SYSLOG_IDENTIFIER": tag, "CONTAINER_LOG_EPOCH": hex.EncodeToString(randomID(32)),
	})
	var same []byte
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		same = appendField(same, name, fields[name])
	}
	ordinal := uint64(0)
	return func(l Line) message {
		ordinal++
		b := slices.Clone(same)
		b = appendField(b, "PRIORITY", strconv.Itoa(severity(l)))
		b = appendField(b, "SYSLOG_TIMESTAMP", l.Time.Format(time.RFC3339Nano))
		b = appendField(b, "CONTAINER_LOG_ORDINAL", strconv.FormatUint(ordinal, 10))
		if p := l.Piece; p != nil {
			b = appendField(b, "CONTAINER_PARTIAL_ID", p.ID)
			b = appendField(b, "CONTAINER_PARTIAL_ORDINAL", strconv.Itoa(p.Ordinal))
			b = appendField(b, "CONTAINER_PARTIAL_LAST", strconv.FormatBool(p.Last))
			if !p.Last {
				b = appendField(b, "CONTAINER_PARTIAL_MESSAGE", "true")
			}
		}
		return message{data: appendField(b, "MESSAGE", string(l.Data))}
	}, nil
}

// journalField makes a field's name of a label's or variable's: capitals, digits and
// underscores, and none of those in front, which mark the journal's own.
func journalField(name string) string {
	return strings.TrimLeft(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name), "_")
}

// appendField writes one field; a value with a newline has its length in front.
func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	if strings.Contains(value, "\n") {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	} else {
		b = append(b, '=')
	}
	return append(append(b, value...), '\n')
}

// writeJournal sends one entry, in a sealed file where it is too large for a datagram.
func writeJournal(conn net.Conn, b []byte) error {
	_, err := conn.Write(b)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("journal-entry", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("cannot make a file for a large entry: %w", err)
	}
	defer unix.Close(fd)
	if n, err := unix.Write(fd, b); err != nil || n < len(b) {
		return fmt.Errorf("cannot write a large entry to a file: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("cannot seal a file for a large entry: %w", err)
	}
	// WriteMsgUnix does not take a connected socket.
	rc, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = rc.Write(func(to uintptr) bool {
		sendErr = unix.Sendmsg(int(to), nil, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT)
		return sendErr != unix.EAGAIN
	})
	return errors.Join(err, sendErr)
}
