package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Registry is a registry of our own on loopback.
type Registry struct {
	Host string // 127.0.0.1:PORT
	// CA is the certificate of the authority that signed the registry's, "" for
	// plain HTTP.
	CA     string
	daemon *daemon
}

// RegistryOptions say how a registry is reached. The zero value is plain HTTP
// for everybody.
type RegistryOptions struct {
	TLS            bool
	User, Password string
}

// StartRegistry starts a registry program with its data below dir, and returns
// when it listens.
func StartRegistry(ctx context.Context, program, dir string, o RegistryOptions) (*Registry, error) {
	host, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &Registry{Host: host}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config, err := r.config(dir, o)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "serve", path)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if r.daemon, err = startDaemon(ctx, "the registry", "listening on", cmd); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Registry) config(dir string, o RegistryOptions) (string, error) {
	config := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), r.Host)
	if o.TLS {
		r.CA = filepath.Join(dir, "ca.crt")
		cert, key := filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
		if err := writeCertificates(r.CA, cert, key); err != nil {
			return "", err
		}
		config += fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", cert, key)
	}
	if o.User != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			return "", err
		}
		users := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(users, fmt.Appendf(nil, "%s:%s\n", o.User, hash), 0o600); err != nil {
			return "", err
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", users)
	}
	return config, nil
}

// Close ends the registry.
func (r *Registry) Close() error { return r.daemon.close() }

// freeAddress is a port of loopback that nobody listens on. Nobody else takes
// ports in the network namespace of a test.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// writeCertificates makes an authority and a certificate of loopback that it signs.
func writeCertificates(ca, cert, key string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caBytes, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	serverBytes, err := x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyBytes, err := x509.MarshalECPrivateKey(serverKey)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(ca, "CERTIFICATE", caBytes), writePEM(cert, "CERTIFICATE", serverBytes), writePEM(key, "EC PRIVATE KEY", keyBytes))
}

func writePEM(path, kind string, data []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600)
}
