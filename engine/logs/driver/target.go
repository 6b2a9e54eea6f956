package driver

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// Line is what is sent as one: a line of output, or a piece of a long one.
type Line struct {
	Time   time.Time
	Stderr bool
	Data   []byte
	Piece  *Piece // nil for a whole line
}

// Piece says which part of a long line this is.
type Piece struct {
	ID      string // of the line
	Ordinal int    // from 1
	Last    bool
}

// longestPiece is Docker's, bytes.
const longestPiece = 16 << 10

// message is a line in a driver's protocol. Without data there is nothing to send.
type message struct {
	data []byte
	ack  string // what the receiver answers once it has it; "": it does not
}

type encoder func(Line) message

// Target is where lines are sent, and how.
type Target struct {
	driver           string
	network, address string // package net's
	// encoder makes messages of a container's lines.
	encoder func(*Info) (encoder, error)
	// write sends one message as datagrams; nil for streams.
	write func(net.Conn, []byte) error
	tls   *tlsOptions // nil: none
	acks  func(net.Conn, func(string)) error

	timeout   time.Duration // of a write that the receiver takes nothing of; 0: none
	pause     time.Duration // before connecting again, at first
	pauses    time.Duration // the longest one
	reconnect time.Duration // how long a connection is used; 0: for ever
}

func newTarget(driver, network, address string) *Target {
	return &Target{driver: driver, network: network, address: address, pause: 100 * time.Millisecond, pauses: 5 * time.Second}
}

// String names the target: "syslog at tcp:10.0.0.1:514".
func (t *Target) String() string {
	network := t.network
	if t.tls != nil {
		network += "+tls"
	}
	return fmt.Sprintf("%s at %s:%s", t.driver, network, t.address)
}

// Check tells what of a target is not on this machine: files with certificates. That a
// receiver is not there is no fault; it may come later.
func (t *Target) Check() error {
	if t.tls == nil {
		return nil
	}
	_, err := t.tls.config(t.address)
	return err
}

// dialBound limits how long a connection takes to come about.
const dialBound = 10 * time.Second

func (t *Target) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, t.network, t.address)
	if err != nil {
		return nil, err
	}
	if c, ok := conn.(interface{ SetWriteBuffer(int) error }); ok && t.network == "tcp" {
		c.SetWriteBuffer(sendBuffer)
	}
	return conn, nil
}

// secure begins TLS on a connection.
func (t *Target) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	config, err := t.tls.config(t.address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	secure := tls.Client(conn, config)
	return secure, secure.HandshakeContext(ctx)
}

// sendBuffer is asked of the kernel for a TCP connection, bytes: it is kept here, too,
// until the other side has it.
const sendBuffer = 256 << 10

// tlsOptions are the files of a TLS connection.
type tlsOptions struct {
	ca, cert, key string
	unverified    bool
}

func (o *tlsOptions) config(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{ServerName: host, InsecureSkipVerify: o.unverified, MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			c.RootCAs = x509.NewCertPool()
		}
		text, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA certificate: %w", err)
		}
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("cannot read the CA certificate: %s has none in PEM form", o.ca)
		}
	}
	if o.cert != "" || o.key != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("cannot read the client's certificate and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// endpoint reads an address such as "tcp://HOST:PORT" or "unix:///PATH". Which schemes
// there are is the driver's affair; port is used where none is given, "" demands one.
func endpoint(text, port string, schemes ...string) (scheme, address string, err error) {
	bad := func(format string, args ...any) (string, string, error) {
		return "", "", fmt.Errorf("is no address: %s; write it like %s://HOST:PORT", fmt.Sprintf(format, args...), schemes[0])
	}
	u, err := url.Parse(text)
	if err != nil {
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return bad("%v", err)
	}
	known := false
	for _, s := range schemes {
		known = known || s == u.Scheme
	}
	switch {
	case !known:
		return bad("it begins with none of %s://", strings.Join(schemes, "://, "))
	case u.Scheme == "unix" || u.Scheme == "unixgram":
		if strings.Trim(u.Path, "/") == "" || u.Host != "" {
			return "", "", fmt.Errorf("is no address: it names no socket; write it like %s:///run/socket", u.Scheme)
		}
		return u.Scheme, u.Path, nil
	case strings.Trim(u.Path, "/") != "":
		return bad("there is a path behind the port")
	case u.Hostname() == "":
		return bad("it names no host")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if port == "" {
		return bad("it has no port")
	}
	if _, err := number(1, 65535)(port); err != nil {
		return bad("the port %v", err)
	}
	return u.Scheme, net.JoinHostPort(u.Hostname(), port), nil
}

// randomID is as good as unique.
func randomID(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return b
}
