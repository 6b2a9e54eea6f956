package driver

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/receiver"
	"github.com/stack-run/stack/engine/logs"
)

// encoderOf is a driver's encoder for a container.
func encoderOf(t *testing.T, driver string, options map[string]string) (*Target, encoder) {
	t.Helper()
	how, _, err := Parse(driver, options)
	must(t, err)
	i := web()
	i.Config = options
	encode, err := how.Target.encoder(i)
	must(t, err)
	return how.Target, encode
}

var moment = time.Date(2026, 3, 4, 15, 6, 7, 891_234_567, time.FixedZone("", 2*3600))

func TestSyslogFormats(t *testing.T) {
	host, err := os.Hostname()
	must(t, err)
	for options, want := range map[string]string{
		"":                           "<30>Mar  4 15:06:07 0123456789ab[PID]: hello\n",
		"syslog-facility=local3":     "<158>Mar  4 15:06:07 0123456789ab[PID]: hello\n",
		"syslog-facility=0":          "<6>Mar  4 15:06:07 0123456789ab[PID]: hello\n",
		"syslog-format=rfc3164":      "<30>Mar  4 15:06:07 HOST 0123456789ab[PID]: hello\n",
		"syslog-format=rfc5424":      "<30>1 2026-03-04T15:06:07+02:00 HOST 0123456789ab PID 0123456789ab - hello\n",
		"tag={{.Name}}":              "<30>Mar  4 15:06:07 shop-web-1[PID]: hello\n",
		"syslog-format=rfc5424micro": "<30>1 2026-03-04T15:06:07.891234+02:00 HOST 0123456789ab PID 0123456789ab - hello\n",
		"syslog-format=rfc5424 syslog-address=tcp+tls://h": "LEN <30>1 2026-03-04T15:06:07+02:00 HOST 0123456789ab PID 0123456789ab - hello\n",
		"syslog-format=rfc3164 syslog-address=tcp+tls://h": "<30>Mar  4 15:06:07 HOST 0123456789ab[PID]: hello\n",
	} {
		values := map[string]string{}
		for pair := range strings.FieldsSeq(options) {
			name, value, _ := strings.Cut(pair, "=")
			values[name] = value
		}
		want = strings.NewReplacer("PID", fmt.Sprint(os.Getpid()), "HOST", host).Replace(want)
		if rest, ok := strings.CutPrefix(want, "LEN "); ok {
			want = fmt.Sprintf("%d %s", len(rest), rest)
		}
		_, encode := encoderOf(t, "syslog", values)
		if got := string(encode(Line{Time: moment, Data: []byte("hello")}).data); got != want {
			t.Errorf("%s: %q, want %q", options, got, want)
		}
		if m := encode(Line{Time: moment}); m.data != nil {
			t.Errorf("%s: an empty line becomes %q", options, m.data)
		}
	}
	_, encode := encoderOf(t, "syslog", nil)
	if got := string(encode(Line{Time: moment, Stderr: true, Data: []byte("x")}).data); !strings.HasPrefix(got, "<27>") {
		t.Errorf("%q", got)
	}
}

// journal is a socket that plays systemd-journald's.
func journal(t *testing.T) (address string, next func() map[string]string) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return address, func() map[string]string {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(20 * time.Second))
		b, oob := make([]byte, 1<<20), make([]byte, 1024)
		n, k, _, _, err := l.ReadMsgUnix(b, oob)
		must(t, err)
		b = b[:n]
		if k > 0 { // the entry is in a file
			messages, err := unix.ParseSocketControlMessage(oob[:k])
			must(t, err)
			fds, err := unix.ParseUnixRights(&messages[0])
			must(t, err)
			f := os.NewFile(uintptr(fds[0]), "entry")
			defer f.Close()
			seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
			must(t, err)
			if want := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL; seals != want {
				t.Errorf("seals %#x, want %#x", seals, want)
			}
			b, err = io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
			must(t, err)
		}
		return parseEntry(t, b)
	}
}

// parseEntry reads an entry of systemd's native protocol.
func parseEntry(t *testing.T, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			t.Fatalf("a field without an end: %.100q", b)
		}
		if name, value, ok := strings.Cut(string(line), "="); ok {
			fields[name] = value
			b = rest
			continue
		}
		n := binary.LittleEndian.Uint64(rest)
		fields[string(line)] = string(rest[8 : 8+n])
		b = rest[8+n+1:]
	}
	return fields
}

func TestJournal(t *testing.T) {
	address, next := journal(t)
	options := map[string]string{"tag": "{{.Name}}", "labels": "team", "env-regex": "^LC_", "labels-regex": "^com"}
	target, encode := encoderOf(t, "journald", options)
	target.address = address
	l, err := open(t.Context(), target)
	must(t, err)
	defer l.close()
	send := func(line Line) map[string]string {
		t.Helper()
		must(t, target.write(l.raw, encode(line).data))
		return next()
	}
	got := send(Line{Time: moment, Stderr: true, Data: []byte("hello")})
	for name, want := range map[string]string{
		"MESSAGE": "hello", "PRIORITY": "3", "CONTAINER_ID": "0123456789ab", "CONTAINER_ID_FULL": sample().ContainerID, "CONTAINER_NAME": "shop-web-1",
		"CONTAINER_TAG": "shop-web-1", "SYSLOG_IDENTIFIER": "shop-web-1", "IMAGE_NAME": "web:1", "SYSLOG_TIMESTAMP": "2026-03-04T15:06:07.891234567+02:00",
		"TEAM": "blue", "COM_EXAMPLE": "yes", "LC_ALL": "C=x", "CONTAINER_LOG_ORDINAL": "1", "CONTAINER_PARTIAL_MESSAGE": "",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if len(got["CONTAINER_LOG_EPOCH"]) != 64 || len(got) != 14 {
		t.Errorf("%v", got)
	}
	got = send(Line{Time: moment, Data: []byte("a\rb\nc"), Piece: &Piece{"p", 2, false}})
	if got["MESSAGE"] != "a\rb\nc" || got["PRIORITY"] != "6" || got["CONTAINER_PARTIAL_MESSAGE"] != "true" || got["CONTAINER_PARTIAL_ID"] != "p" || got["CONTAINER_PARTIAL_ORDINAL"] != "2" || got["CONTAINER_PARTIAL_LAST"] != "false" {
		t.Errorf("%v", got)
	}
	got = send(Line{Time: moment, Data: []byte("c"), Piece: &Piece{"p", 3, true}})
	if _, more := got["CONTAINER_PARTIAL_MESSAGE"]; more || got["CONTAINER_PARTIAL_LAST"] != "true" {
		t.Errorf("%v", got)
	}
	large := bytes.Repeat([]byte("x"), 500_000)
	if got = send(Line{Time: moment, Data: large}); got["MESSAGE"] != string(large) {
		t.Errorf("%d bytes", len(got["MESSAGE"]))
	}
}

func TestJournalFields(t *testing.T) {
	for name, want := range map[string]string{"a.b-c": "A_B_C", "_HOSTNAME": "HOSTNAME", "__x": "X", "9": "9", "ä": "", "COM": "COM"} {
		if got := journalField(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A journal that is started again takes what it had not read.
func TestJournalComesBack(t *testing.T) {
	address, next := journal(t)
	x := newSource(t)
	d, told := x.deliver(t, "journald", "")
	d.t.address = address
	must(t, os.Rename(address, address+"-"))
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.out, "early\n")
	untilHas(t, told, "cannot send")
	must(t, os.Rename(address+"-", address))
	if got := next()["MESSAGE"]; got != "early" {
		t.Errorf("%q", got)
	}
	x.end(t)
	d.Stop()
}

func TestGELF(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer conn.Close()
	address := "udp://" + conn.LocalAddr().String()
	receive := func() []byte {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		parts := map[byte][]byte{}
		for {
			b := make([]byte, 1<<16)
			n, err := conn.Read(b)
			must(t, err)
			if b = b[:n]; !bytes.HasPrefix(b, []byte{0x1e, 0x0f}) {
				return b
			}
			parts[b[10]] = b[12:]
			if len(parts) == int(b[11]) {
				var all []byte
				for i := range len(parts) {
					all = append(all, parts[byte(i)]...)
				}
				return all
			}
		}
	}
	for kind, unpack := range map[string]func(io.Reader) (io.Reader, error){
		"":     func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"zlib": func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
		"none": func(r io.Reader) (io.Reader, error) { return r, nil },
	} {
		options := map[string]string{"gelf-address": address, "labels": "team", "tag": "{{.Name}}"}
		if kind != "" {
			options["gelf-compression-type"] = kind
		}
		target, encode := encoderOf(t, "gelf", options)
		l, err := open(t.Context(), target)
		must(t, err)
		defer l.close()
		noise := make([]byte, 8_000) // which is not made small
		rand.Read(noise)
		for _, text := range []string{"hello \"x\"", fmt.Sprintf("%x", noise)} {
			must(t, target.write(l.raw, encode(Line{Time: moment, Stderr: true, Data: []byte(text)}).data))
			r, err := unpack(bytes.NewReader(receive()))
			must(t, err)
			var got map[string]any
			must(t, json.NewDecoder(r).Decode(&got))
			for name, want := range map[string]any{
				"version": "1.1", "short_message": text, "level": 3.0, "timestamp": 1772629567.891, "_container_name": "shop-web-1",
				"_container_id": sample().ContainerID, "_image_name": "web:1", "_image_id": "sha256:fedcba9876543210", "_command": "/web --port 80",
				"_tag": "shop-web-1", "_team": "blue", "_created": "0001-01-01T00:00:00Z",
			} {
				if got[name] != want {
					t.Errorf("%s: %s is %v, want %v", kind, name, got[name], want)
				}
			}
		}
	}
	target, _ := encoderOf(t, "gelf", map[string]string{"gelf-address": address})
	if err := target.write(conn, make([]byte, mostChunks*chunkSize)); err != errTooLarge {
		t.Error(err)
	}
}

func TestForward(t *testing.T) {
	_, encode := encoderOf(t, "fluentd", map[string]string{"tag": "docker.{{.Name}}", "env": "MODE", "fluentd-request-ack": "true"})
	m := encode(Line{Time: moment, Stderr: true, Data: []byte("hello"), Piece: &Piece{"p", 1, true}})
	var got fluent.Message
	_, err := got.UnmarshalMsg(m.data)
	must(t, err)
	want := map[string]any{
		"log": "hello", "source": "stderr", "container_id": sample().ContainerID, "container_name": "/shop-web-1", "MODE": "fast",
		"partial_message": "true", "partial_id": "p", "partial_ordinal": "1", "partial_last": "true",
	}
	if fmt.Sprint(got.Record) != fmt.Sprint(want) || got.Tag != "docker.shop-web-1" || got.Time != moment.Unix() || got.Option["chunk"] != m.ack || m.ack == "" {
		t.Errorf("%+v", got)
	}
	_, encode = encoderOf(t, "fluentd", map[string]string{"fluentd-sub-second-precision": "true"})
	var exact fluent.MessageExt
	_, err = exact.UnmarshalMsg(encode(Line{Time: moment}).data)
	must(t, err)
	if !time.Time(exact.Time).Equal(moment) {
		t.Errorf("%v", time.Time(exact.Time))
	}
}

// Over TLS, with certificates of both sides.
func TestSyslogOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pair := selfSigned(t, cert, key)
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	r := receiver.New()
	srv := listen(t, "tcp", "127.0.0.1:0", r, func(c net.Conn, take func(string)) error {
		return receiver.Syslog(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}), take)
	})
	x := newSource(t)
	options := fmt.Sprintf("syslog-address=tcp+tls://%s syslog-tls-ca-cert=%s syslog-tls-cert=%s syslog-tls-key=%s syslog-format=rfc5424", srv.Address(), cert, cert, key)
	d, _ := x.deliver(t, "syslog", options)
	must(t, d.t.Check())
	x.start(t, logs.Budget{}, false)
	d.Start()
	const n = 20_000
	fmt.Fprint(x.out, receiver.Numbers(0, n))
	x.end(t)
	flush(t, d)
	lines := untilHas(t, r, fmt.Sprintf("number %d.", n-1))
	if again, lost := numbered(t, lines, n); again+lost > 0 {
		t.Errorf("%d lines came twice, %d never", again, lost)
	}
	d.Stop()
	must(t, os.WriteFile(cert, nil, 0o600))
	if err := d.t.Check(); err == nil || !strings.Contains(err.Error(), "CA certificate") {
		t.Error(err)
	}
	must(t, os.Remove(cert))
	if err := d.t.Check(); err == nil || !strings.Contains(err.Error(), cert) {
		t.Error(err)
	}
}

func selfSigned(t *testing.T, certFile, keyFile string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600))
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	return pair
}

// Datagrams: a closed port that the host tells of makes lines wait.
func TestSyslogOverUDP(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	address := conn.LocalAddr().(*net.UDPAddr)
	x := newSource(t)
	d, told := x.deliver(t, "syslog", "syslog-address=udp://"+address.String())
	must(t, conn.Close())
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.out, receiver.Numbers(0, 50))
	x.end(t)
	untilHas(t, told, "connection refused")
	conn, err = net.ListenUDP("udp", address)
	must(t, err)
	defer conn.Close()
	var lines []string
	for b := make([]byte, 1000); len(lines) == 0 || !strings.HasSuffix(lines[len(lines)-1], "number 49.\n"); {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := conn.Read(b)
		must(t, err)
		lines = append(lines, string(b[:n]))
	}
	if again, lost := numbered(t, lines, 50); again+lost > 0 {
		t.Errorf("%d lines came twice, %d never", again, lost)
	}
	flush(t, d)
	d.Stop()
}
