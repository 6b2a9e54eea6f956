package driver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"
)

// fluentd speaks the Forward protocol. The messages are the library's; its connection
// does not notice that the other side is gone before the next message is lost, so that
// is ours.
func fluentd(o *options) *Target {
	scheme, address := "tcp", "127.0.0.1:24224"
	if text := o.text("fluentd-address"); text != "" {
		var err error
		if scheme, address, err = forwardAddress(text); err != nil {
			o.fail("fluentd-address", "%q %w", text, err)
		}
	}
	network := scheme
	if scheme == "tls" {
		network = "tcp"
	}
	t := newTarget("fluentd", network, address)
	if scheme == "tls" {
		t.tls = &tlsOptions{}
	}
	t.timeout = read(o, "fluentd-write-timeout", t.timeout, duration)
	if wait := read(o, "fluentd-retry-wait", 0, duration); wait > 0 {
		t.pause, t.pauses = wait, max(wait, t.pauses)
	}
	t.reconnect = read(o, "fluentd-async-reconnect-interval", 0, func(s string) (time.Duration, error) {
		d, err := duration(s)
		if err == nil && d != 0 && (d < 100*time.Millisecond || d > 10*time.Second) {
			err = errors.New("is out of range; use 100ms to 10s, or 0 to keep connections")
		}
		return d, err
	})
	read(o, "fluentd-async", false, boolean) // lines are always sent beside the container
	read(o, "fluentd-max-retries", 0, number(0, math.MaxInt32))
	read(o, "fluentd-buffer-limit", 0, size)
	const why = "lines wait in the log here, as many as that holds, until they are sent; cache-max-size and cache-max-file limit it, and max-buffer-size"
	o.noEffect("fluentd-max-retries", why)
	o.noEffect("fluentd-buffer-limit", why)
	precise := read(o, "fluentd-sub-second-precision", false, boolean)
	asks := read(o, "fluentd-request-ack", false, boolean)
	if asks {
		t.acks = readAcks
	}
	t.encoder = func(i *Info) (encoder, error) { return forwardEncoder(i, precise, asks) }
	return t
}

// forwardAddress fills in what Docker's driver does.
func forwardAddress(text string) (scheme, address string, err error) {
	if !strings.Contains(text, "://") {
		text = "tcp://" + text
	}
	if scheme, rest, _ := strings.Cut(text, "://"); scheme != "unix" && (rest == "" || strings.HasPrefix(rest, ":")) {
		text = scheme + "://127.0.0.1" + rest
	}
	return endpoint(text, "24224", "tcp", "tls", "unix")
}

func forwardEncoder(i *Info, precise, asks bool) (encoder, error) {
	tag, err := i.Tag(defaultTag)
	if err != nil {
		return nil, err
	}
	extra, err := i.Attributes(nil)
	if err != nil {
		return nil, err
	}
	return func(l Line) message {
		source := "stdout"
		if l.Stderr {
			source = "stderr"
		}
		record := map[string]string{"container_id": i.FullID(), "container_name": i.ContainerName, "source": source, "log": string(l.Data)}
		for name, v := range extra {
			record[name] = v
		}
		if p := l.Piece; p != nil {
			record["partial_message"] = "true"
			record["partial_id"] = p.ID
			record["partial_ordinal"] = strconv.Itoa(p.Ordinal)
			record["partial_last"] = strconv.FormatBool(p.Last)
		}
		var m message
		option := map[string]string{}
		if asks {
			m.ack = base64.StdEncoding.EncodeToString(randomID(16))
			option["chunk"] = m.ack
		}
		// Neither fails with a map of strings.
		if precise {
			m.data, _ = (&fluent.MessageExt{Tag: tag, Time: fluent.EventTime(l.Time), Record: record, Option: option}).MarshalMsg(nil)
		} else {
			m.data, _ = (&fluent.Message{Tag: tag, Time: l.Time.Unix(), Record: record, Option: option}).MarshalMsg(nil)
		}
		return m
	}, nil
}

// readAcks reads what a receiver answers, until the connection ends.
func readAcks(conn net.Conn, got func(id string)) error {
	r := msgp.NewReader(conn)
	for {
		var a fluent.AckResp
		if err := a.DecodeMsg(r); err != nil {
			return fmt.Errorf("cannot read an acknowledgement: %w", err)
		}
		got(a.Ack)
	}
}
