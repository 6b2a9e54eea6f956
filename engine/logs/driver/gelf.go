package driver

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// GELF over UDP (Graylog Docs, "GELF"): what is too large for one datagram comes in
// chunks, at most so many, each with a header.
const (
	chunkSize   = 1420 // with the header, as Docker's
	chunkHeader = 12
	mostChunks  = 128
)

func gelf(o *options) *Target {
	text := o.text("gelf-address")
	if text == "" {
		o.fail("gelf-address", "it is missing; write it like udp://HOST:PORT")
	}
	network, address := "udp", ""
	if text != "" {
		var err error
		if network, address, err = endpoint(text, "", "udp", "tcp"); err != nil {
			o.fail("gelf-address", "%q %w", text, err)
		}
	}
	t := newTarget("gelf", network, address)
	level := read(o, "gelf-compression-level", gzip.BestSpeed, number(gzip.DefaultCompression, gzip.BestCompression))
	compress := read(o, "gelf-compression-type", compression(gzipped), parseCompression)
	if delay := read(o, "gelf-tcp-reconnect-delay", 0, number(0, 3600)); delay > 0 {
		t.pause = time.Duration(delay) * time.Second
		t.pauses = max(t.pause, t.pauses)
	}
	for name, with := range map[string]string{
		"gelf-compression-level": "udp", "gelf-compression-type": "udp", "gelf-tcp-max-reconnect": "tcp", "gelf-tcp-reconnect-delay": "tcp",
	} {
		if o.values[name] != "" && network != with {
			o.fail(name, "it is for %s only; remove it, or use %s://", with, with)
		}
	}
	read(o, "gelf-tcp-max-reconnect", 0, number(0, 1<<30))
	o.noEffect("gelf-tcp-max-reconnect", "lines wait in the log here and are sent once the receiver is back")
	finish := func(b []byte) []byte { return append(b, 0) }
	if network == "udp" {
		t.write = writeChunks
		finish = func(b []byte) []byte { return compress(b, level) }
	}
	t.encoder = func(i *Info) (encoder, error) { return gelfEncoder(i, finish) }
	return t
}

func gelfEncoder(i *Info, finish func([]byte) []byte) (encoder, error) {
	tag, err := i.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	host, err := i.Hostname()
	if err != nil {
		return nil, err
	}
	named, err := i.Attributes(func(name string) string {
		if name != "" && name[0] == '_' {
			return name
		}
		return "_" + name
	})
	if err != nil {
		return nil, err
	}
	extra := map[string]any{
		"_container_id": i.FullID(), "_container_name": i.Name(), "_image_id": i.ImageFullID(), "_image_name": i.ImageName(),
		"_command": i.Command(), "_tag": tag, "_created": i.ContainerCreated,
	}
	for name, v := range named {
		extra[name] = v
	}
	same, err := json.Marshal(extra)
	if err != nil {
		return nil, err
	}
	hostText, err := json.Marshal(host)
	if err != nil {
		return nil, err
	}
	return func(l Line) message {
		if len(l.Data) == 0 {
			return message{}
		}
		text, err := json.Marshal(string(l.Data))
		if err != nil {
			return message{} // a string is always JSON
		}
		return message{data: finish(fmt.Appendf(nil, `{"version":"1.1","host":%s,"short_message":%s,"timestamp":%.3f,"level":%d,%s`,
			hostText, text, float64(l.Time.UnixMilli())/1000, severity(l), same[1:]))}
	}, nil
}

// compression makes less of a message.
type compression func(b []byte, level int) []byte

func gzipped(b []byte, level int) []byte {
	return packed(b, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, level) })
}

func parseCompression(s string) (compression, error) {
	switch s {
	case "gzip":
		return gzipped, nil
	case "zlib":
		return func(b []byte, level int) []byte {
			return packed(b, func(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriterLevel(w, level) })
		}, nil
	case "none":
		return func(b []byte, _ int) []byte { return b }, nil
	}
	return nil, errors.New("is no kind of compression; use gzip, zlib or none")
}

// packed cannot fail: the level is known to be one, and a buffer takes all.
func packed(b []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		return b
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func writeChunks(conn net.Conn, b []byte) error {
	if len(b) <= chunkSize {
		return writeDatagram(conn, b)
	}
	const room = chunkSize - chunkHeader
	count := (len(b) + room - 1) / room
	if count > mostChunks {
		return errTooLarge
	}
	id := randomID(8)
	for n := range count {
		chunk := append([]byte{0x1e, 0x0f}, id...)
		chunk = append(chunk, byte(n), byte(count))
		chunk = append(chunk, b[n*room:min(len(b), (n+1)*room)]...)
		if err := writeDatagram(conn, chunk); err != nil {
			return err
		}
	}
	return nil
}

// errTooLarge says that a receiver takes no message of that size: it is left out.
var errTooLarge = errors.New("the message is too large for its protocol")
