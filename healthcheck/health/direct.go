package health

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Kinds of tests that the engine makes itself, without a process in the container
// and so without a program in its image. The second and last word of the test says
// of what. Docker does not know them.
const (
	HTTP = "HTTP" // a URL that answers with a status from 200 to 399
	TCP  = "TCP"  // a HOST:PORT that accepts connections
	Log  = "LOG"  // a regular expression, RE2, that a line of the log matches
	File = "FILE" // a path that exists
)

// Direct tells whether the engine makes the test itself.
func (s *Spec) Direct() bool {
	if s == nil || len(s.Test) != 2 {
		return false
	}
	switch s.Test[0] {
	case HTTP, TCP, Log, File:
		return true
	}
	return false
}

// local is the host of a check that names none: the container itself.
const local = "localhost"

// ParseHTTP reads where an HTTP check asks: a URL, or what follows its host, such as
// ":8080/healthz" or "/healthz".
func ParseHTTP(text string) (string, error) {
	whole := text
	if strings.HasPrefix(text, ":") || strings.HasPrefix(text, "/") {
		whole = "http://" + local + text
	}
	u, err := url.Parse(whole)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err
		}
		return "", fmt.Errorf("%q is no URL: %w; write it like :8080/healthz", text, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || u.Host == "":
		return "", fmt.Errorf("%q is no URL; write it like :8080/healthz or https://localhost:8443/healthz", text)
	case u.User != nil:
		return "", fmt.Errorf("%q has a user, which a check cannot be", u.Redacted())
	}
	if err := checkHost(u.Hostname()); err != nil {
		return "", fmt.Errorf("%q: %w", text, err)
	}
	if u.Port() != "" {
		if err := checkPort(u.Port()); err != nil {
			return "", fmt.Errorf("%q: %w", text, err)
		}
	}
	u.Fragment = ""
	return u.String(), nil
}

// ParseTCP reads where a TCP check connects: a port, alone or behind an address.
func ParseTCP(text string) (string, error) {
	host, port := local, text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		host, port = text[:i], text[i+1:]
		if host == "" {
			host = local
		}
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if err := checkHost(bare); err != nil {
		return "", fmt.Errorf("%q: %w", text, err)
	}
	if err := checkPort(port); err != nil {
		return "", fmt.Errorf("%q: %w", text, err)
	}
	if strings.Contains(bare, ":") {
		bare = "[" + bare + "]"
	}
	return bare + ":" + port, nil
}

// checkHost allows what can be asked without looking a name up.
func checkHost(host string) error {
	if host == local {
		return nil
	}
	if a, err := netip.ParseAddr(host); err != nil || a.Zone() != "" {
		return fmt.Errorf("a check asks from inside of the container; leave %q out, or write localhost or an address", host)
	}
	return nil
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port; write a number from 1 to 65535", port)
	}
	return nil
}

// ParseLog reads the regular expression of a log check.
func ParseLog(text string) (string, error) {
	if text == "" {
		return "", errors.New("it is empty, which every line matches; write what the line says")
	}
	if _, err := regexp.Compile(text); err != nil {
		return "", fmt.Errorf("%q is no regular expression: %s; put a \\ before what is meant as it stands", text, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return text, nil
}

// ParseFile reads the path of a file check.
func ParseFile(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		return "", fmt.Errorf("%q does not begin with a /; write the whole path in the container", text)
	}
	return path.Clean(text), nil
}
