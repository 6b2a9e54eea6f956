package driver

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// facilities are syslog(3)'s, by the names of Docker's driver.
func facilities() map[string]int {
	return map[string]int{
		"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
		"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
	}
}

// localSyslog is where programs of this machine log, syslog(3).
const localSyslog = "/dev/log"

// header is what is in front of a line, without priority.
type header func(at time.Time, host, tag string, pid int) string

func syslog(o *options) *Target {
	scheme, address := "unixgram", localSyslog
	if text := o.text("syslog-address"); text != "" {
		var err error
		if scheme, address, err = endpoint(text, "514", "udp", "tcp", "tcp+tls", "unix", "unixgram"); err != nil {
			o.fail("syslog-address", "%q %w", text, err)
		}
	}
	network, secure := strings.CutSuffix(scheme, "+tls")
	t := newTarget("syslog", network, address)
	_, skip := o.values["syslog-tls-skip-verify"] // alone it is enough
	files := &tlsOptions{
		ca: o.text("syslog-tls-ca-cert"), cert: o.text("syslog-tls-cert"), key: o.text("syslog-tls-key"),
		unverified: read(o, "syslog-tls-skip-verify", skip, boolean),
	}
	if secure {
		t.tls = files
	}
	if (files.cert == "") != (files.key == "") {
		o.fail("syslog-tls-cert", "certificate and key come together; set both syslog-tls-cert and syslog-tls-key")
	}
	facility := read(o, "syslog-facility", facilities()["daemon"], parseFacility)
	format := read(o, "syslog-format", header(unixHeader), parseFormat)
	// RFC 5425 counts the bytes of a message; what is sent otherwise ends with a newline.
	counted := secure && strings.HasPrefix(o.values["syslog-format"], "rfc5424")
	if network == "udp" || network == "unixgram" {
		t.write = writeDatagram
	}
	t.encoder = func(i *Info) (encoder, error) {
		tag, err := i.Tag(defaultTag)
		if err != nil {
			return nil, err
		}
		host, err := i.Hostname()
		if err != nil {
			return nil, err
		}
		pid := os.Getpid()
		return func(l Line) message {
			if len(l.Data) == 0 {
				return message{}
			}
			text := fmt.Sprintf("<%d>%s%s\n", facility<<3|severity(l), format(l.Time, host, tag, pid), l.Data)
			if counted {
				text = fmt.Sprintf("%d %s", len(text), text)
			}
			return message{data: []byte(text)}
		}, nil
	}
	return t
}

func writeDatagram(conn net.Conn, b []byte) error {
	_, err := conn.Write(b)
	return err
}

func parseFacility(s string) (int, error) {
	if n, ok := facilities()[s]; ok {
		return n, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 23 {
		return n, nil
	}
	return 0, fmt.Errorf("is no facility; use a number from 0 to 23 or one of %s", strings.Join(slices.Sorted(maps.Keys(facilities())), ", "))
}

func parseFormat(s string) (header, error) {
	switch s {
	case "rfc3164":
		return func(at time.Time, host, tag string, pid int) string {
			return fmt.Sprintf("%s %s %s[%d]: ", at.Format(time.Stamp), host, tag, pid)
		}, nil
	case "rfc5424":
		return rfc5424(time.RFC3339), nil
	case "rfc5424micro":
		return rfc5424("2006-01-02T15:04:05.000000Z07:00"), nil
	}
	return nil, errors.New("is no format; use rfc3164, rfc5424 or rfc5424micro")
}

// unixHeader has no host's name: the receiver is on this one.
func unixHeader(at time.Time, _, tag string, pid int) string {
	return fmt.Sprintf("%s %s[%d]: ", at.Format(time.Stamp), tag, pid)
}

// rfc5424 has the tag as the program's name and as the message's ID, as Docker's.
func rfc5424(layout string) header {
	return func(at time.Time, host, tag string, pid int) string {
		return fmt.Sprintf("1 %s %s %s %d %s - ", at.Format(layout), host, tag, pid, tag)
	}
}
