package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hubAddress is where the hub listens: of a range for documentation, so nobody else
// has it, and not of loopback, so that containers reach it too.
var hubAddress = net.IPv4(192, 0, 2, 1)

// serveHub makes the hub known to all programs of this sandbox as Docker Hub, and
// serves it until the sandbox ends.
func serveHub(at layout, h *hub) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: hubAddress, Mask: net.CIDRMask(32, 32)}}); err != nil {
		return fmt.Errorf("cannot give the hub its address: %w", err)
	}
	certificate, authority, err := certify(hubName, authName)
	if err != nil {
		return err
	}
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	trusted, err := os.ReadFile(bundle)
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		bundle:             string(trusted) + "\n" + authority,
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/resolv.conf": "nameserver " + hubAddress.String() + "\n",
	} {
		if err := cover(at, path, text); err != nil {
			return err
		}
	}
	listener, err := tls.Listen("tcp", net.JoinHostPort(hubAddress.String(), "443"), &tls.Config{
		Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		return err
	}
	go http.Serve(listener, h)
	return serveNames()
}

// cover mounts a file of ours over one of the machine's, in this sandbox only.
func cover(at layout, path, text string) error {
	f, err := os.CreateTemp(string(at), "covered-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	if err := unix.Mount(f.Name(), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount over %s: %w", path, err)
	}
	return nil
}

// serveNames answers with the hub's address for its names, and that there is no
// other name.
func serveNames() error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		a.RecursionAvailable = true
		switch name := q.Question[0].Name; name {
		case hubName + ".", authName + ".":
			if q.Question[0].Qtype == dns.TypeA {
				a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: hubAddress}}
			}
		default:
			a.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(a)
	})
	address := net.JoinHostPort(hubAddress.String(), "53")
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go (&dns.Server{PacketConn: packets, Handler: handler}).ActivateAndServe()
	go (&dns.Server{Listener: streams, Handler: handler}).ActivateAndServe()
	return nil
}

// certify makes a certificate for names, which is its own authority.
func certify(names ...string) (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made})
	return tls.Certificate{Certificate: [][]byte{made}, PrivateKey: key}, string(text), nil
}
