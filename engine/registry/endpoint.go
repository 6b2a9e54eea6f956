package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

const (
	hub     = "docker.io"
	hubHost = "registry-1.docker.io"
)

// dialTimeout is how long a server may take to accept a connection. It is the
// time that its lost packets are sent again four times in (RFC 6298).
const dialTimeout = 15 * time.Second

// endpoint is one server that has a registry's content: itself, or a mirror.
type endpoint struct {
	registry string // as credentials are stored for it
	base     url.URL
	client   *http.Client
	plain    bool          // plain HTTP is allowed
	answers  atomic.Bool   // it has answered
	settling chan struct{} // holds a token while nobody finds out the scheme
	settled  bool          // the scheme is known
}

// endpoints are the servers to ask for a registry's content, in order.
func (c *Client) endpoints(ctx context.Context, registry string, mirrors bool) ([]*endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := registry
	if !mirrors {
		key += " itself"
	}
	if known := c.known[key]; known != nil {
		return known, nil
	}
	var all []*endpoint
	if mirrors {
		for _, m := range c.config.Mirrors[registry] {
			if !strings.Contains(m, "://") {
				m = "https://" + m
			}
			u, err := url.Parse(m)
			if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
				return nil, fmt.Errorf("cannot use registry mirror %q: it is not a URL such as https://mirror.lan", m)
			}
			if u.Scheme == "http" && !loopback(u.Host) && !c.config.IsInsecure(u.Host) {
				return nil, fmt.Errorf("cannot use registry mirror %s: it is plain HTTP; if that is meant, add %q to insecure-registries in %s", m, u.Host, filepath.Join(ConfigDir(), "registries.json"))
			}
			e, err := c.endpoint(u.Host, *u)
			if err != nil {
				return nil, err
			}
			e.settled = true
			all = append(all, e)
		}
	}
	host := registry
	if host == hub {
		host = hubHost
	}
	e, err := c.endpoint(registry, url.URL{Scheme: "https", Host: host})
	if err != nil {
		return nil, err
	}
	all = append(all, e)
	c.known[key] = all
	return all, nil
}

func (c *Client) endpoint(registry string, base url.URL) (*endpoint, error) {
	insecure := c.config.IsInsecure(base.Host)
	e := &endpoint{registry: registry, base: base, plain: insecure || loopback(base.Host), settling: make(chan struct{}, 1)}
	e.settling <- struct{}{}
	e.base.Path = strings.TrimSuffix(e.base.Path, "/")
	e.settled = !e.plain
	conf, err := c.tlsConfig(base.Host)
	if err != nil {
		return nil, err
	}
	conf.InsecureSkipVerify = insecure
	dial := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	e.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dial.DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    20 * time.Second,
			ResponseHeaderTimeout:  c.o.HeaderTimeout,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true,
			ReadBufferSize:         64 << 10,
			MaxResponseHeaderBytes: 1 << 20,
			// HTTP/2 would send all layers through one connection, with one
			// window and one loss slowing all of them.
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) >= 10 {
				return errors.New("it was redirected 10 times")
			}
			switch scheme := r.URL.Scheme; {
			case scheme == "https", scheme == via[0].URL.Scheme:
			case scheme == "http":
				return fmt.Errorf("it was redirected from HTTPS to plain HTTP, to %s", printable(r.URL.Host))
			default:
				return fmt.Errorf("it was redirected to %q, which is not HTTP", scheme)
			}
			// Another port, or a host below this one, is another server. Once away,
			// the request does not get its credentials back.
			for _, u := range append(via, r) {
				if u.URL.Host != via[0].URL.Host {
					r.Header.Del("Authorization")
				}
			}
			return nil
		},
	}
	return e, nil
}

// tlsConfig adds the certificates that certs.d has for host.
func (c *Client) tlsConfig(host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, dir := range c.config.CertDirs {
		entries, err := os.ReadDir(filepath.Join(dir, host))
		if err != nil {
			continue
		}
		for _, f := range entries {
			path := filepath.Join(dir, host, f.Name())
			switch filepath.Ext(path) {
			case ".crt":
				if conf.RootCAs == nil {
					if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
						conf.RootCAs = x509.NewCertPool()
					}
				}
				data, err := os.ReadFile(path)
				if err != nil {
					return nil, fmt.Errorf("cannot read the certificate of an authority: %w", err)
				}
				if !conf.RootCAs.AppendCertsFromPEM(data) {
					return nil, fmt.Errorf("cannot read the certificate of an authority: there is none in %s", path)
				}
			case ".cert":
				pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
				if err != nil {
					return nil, fmt.Errorf("cannot read the client certificate %s: %w", path, err)
				}
				conf.Certificates = append(conf.Certificates, pair)
			}
		}
	}
	return conf, nil
}

// settle finds out whether an endpoint that may speak plain HTTP does.
func (c *Client) settle(ctx context.Context, e *endpoint) error {
	select {
	case <-e.settling:
		defer func() { e.settling <- struct{}{} }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if e.settled {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url("/v2/"), nil)
	if err != nil {
		return err
	}
	resp, err := e.client.Do(req)
	if err == nil {
		resp.Body = newReceived(resp.Body, c.o.StallTimeout, cancel)
		drain(resp)
		e.answers.Store(true)
		e.settled = true
		return nil
	}
	var notTLS tls.RecordHeaderError
	_, port := splitPort(e.base.Host)
	if errors.As(err, &notTLS) || strings.Contains(err.Error(), "HTTP response to HTTPS client") || port == "" && refused(err) {
		e.base.Scheme, e.settled = "http", true
		return nil
	}
	return c.networkError(e, err)
}

func (e *endpoint) url(path string) string {
	u := e.base
	return u.Scheme + "://" + u.Host + u.Path + path
}

func (e *endpoint) String() string { return e.base.Host + e.base.Path }
