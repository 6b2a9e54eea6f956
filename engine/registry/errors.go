package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Error is a registry's refusal.
type Error struct {
	Host   string
	Status int    // of HTTP
	Code   string // such as MANIFEST_UNKNOWN (distribution-spec, "Error Codes"), may be empty
	Text   string // the registry's own words, or the status in words
	Hint   string
	// Meaning is what the refusal says about what was asked for, where the
	// registry's own words do not.
	Meaning string
	wait    time.Duration // Retry-After
	ofLogin bool          // the token server refused credentials
}

func (e *Error) Error() string {
	s := fmt.Sprintf("registry %s says: %s", e.Host, e.Text)
	if e.Meaning != "" {
		return fmt.Sprintf("%s (%s)", e.Meaning, s)
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// explain says what a refusal means for an image that was asked for. Registries do
// not tell images that are not there from those that one may not see, and call
// both unauthorized.
func (c *Client) explain(ctx context.Context, e *endpoint, err error) {
	var refusal *Error
	if !errors.As(err, &refusal) {
		return
	}
	switch refusal.Status {
	case http.StatusNotFound:
		refusal.Hint = "check the name and the tag"
	case http.StatusUnauthorized, http.StatusForbidden:
		cred, _ := c.creds.Get(ctx, e.registry)
		switch {
		case cred == Credential{}:
			refusal.Meaning = fmt.Sprintf("it does not exist, or needs \"stack login%s\"", loginArgument(e.registry))
		case !refusal.ofLogin:
			refusal.Meaning = fmt.Sprintf("it does not exist, or is not for the account that \"stack login%s\" was done with", loginArgument(e.registry))
		}
	}
}

// maxErrorBody is how much of an error's body is read.
const maxErrorBody = 64 << 10

// refusal makes an Error of a response and closes its body.
func refusal(e *endpoint, resp *http.Response, now time.Time) *Error {
	defer resp.Body.Close()
	out := &Error{Host: e.String(), Status: resp.StatusCode}
	atOnce(resp)
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var body struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
		Details string // of token servers
	}
	if json.Unmarshal(data, &body) == nil {
		var texts []string
		for _, x := range body.Errors {
			if out.Code == "" {
				out.Code = x.Code
			}
			text := x.Message
			if text == "" {
				text = x.Code
			}
			if text = printable(text); text != "" {
				texts = append(texts, text)
			}
		}
		out.Text = printable(strings.Join(texts, "; "))
		if out.Text == "" {
			out.Text = printable(body.Details)
		}
	}
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if out.Text == "" {
		out.Text = status
	} else {
		out.Text += " (" + status + ")"
	}
	out.wait = retryAfter(resp.Header.Get("Retry-After"), now)
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		out.Hint = fmt.Sprintf("log in with \"stack login%s\"", loginArgument(e.registry))
	case http.StatusForbidden:
		out.Hint = fmt.Sprintf("check that the account may do this, or log in with another by \"stack login%s\"", loginArgument(e.registry))
	case http.StatusTooManyRequests:
		out.Hint = rateLimit(resp.Header, out.wait) + fmt.Sprintf("log in with \"stack login%s\", or set a mirror in %s", loginArgument(e.registry), filepath.Join(ConfigDir(), "registries.json"))
	}
	return out
}

func loginArgument(registry string) string {
	if registry == hub {
		return ""
	}
	return " " + registry
}

// printable takes out what would disturb a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // characters that reverse what is written, too
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(strings.ToValidUTF8(s[:min(len(s), 2000)], ""))
}

// maxSeconds is the longest time that a header tells: more would be a Duration that
// has begun again at the other end.
const maxSeconds = math.MaxInt64 / uint64(time.Second)

// retryAfter reads Retry-After, in seconds or as a date (RFC 9110, 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, maxSeconds)) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// rateLimit reads the headers "RateLimit-Limit: 100;w=21600" and
// "RateLimit-Remaining: 0;w=21600" (draft-polli-ratelimit-headers).
func rateLimit(h http.Header, wait time.Duration) string {
	limit, window, _ := strings.Cut(h.Get("RateLimit-Limit"), ";w=")
	left, _, _ := strings.Cut(h.Get("RateLimit-Remaining"), ";")
	var parts []string
	if limit != "" && left != "" {
		text := fmt.Sprintf("%s of %s requests are left", printable(left), printable(limit))
		if n, err := strconv.ParseUint(window, 10, 64); err == nil && n <= maxSeconds {
			text += fmt.Sprintf(" in %s", time.Duration(n)*time.Second)
		}
		parts = append(parts, text)
	}
	if wait > 0 {
		parts = append(parts, fmt.Sprintf("try again in %s", wait.Round(time.Second)))
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + "; "
}

// networkError explains an error that came before any answer.
func (c *Client) networkError(e *endpoint, err error) error {
	host := e.String()
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // what was asked for is told by others
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("cannot reach registry %s: there is no host %q; check the spelling and the name server", host, dns.Name)
	case errors.As(err, &dns) && dns.IsTimeout:
		return fmt.Errorf("cannot reach registry %s: no name server answers for %q; is this machine connected?", host, dns.Name)
	case errors.As(err, &dns):
		// The name server's address and port are of no use to the user.
		return fmt.Errorf("cannot reach registry %s: %q cannot be looked up: %w; is this machine connected?", host, dns.Name, lookupError{dns})
	case errors.As(err, &cert):
		dir := "/etc/docker/certs.d"
		if len(c.config.CertDirs) > 0 {
			dir = c.config.CertDirs[0]
		}
		return fmt.Errorf("cannot trust registry %s: %w; if its authority is a private one, put its certificate into %s", host, cert.Err, filepath.Join(dir, e.base.Host, "ca.crt"))
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("cannot reach registry %s: it speaks plain HTTP; if that is meant, add %q to insecure-registries in %s", host, e.base.Host, filepath.Join(ConfigDir(), "registries.json"))
	case refused(err):
		return fmt.Errorf("cannot reach registry %s: %w; is it running, on that port?", host, syscall.ECONNREFUSED)
	}
	return fmt.Errorf("cannot reach registry %s: %w", host, err)
}

// lookupError is a DNSError in few words.
type lookupError struct{ *net.DNSError }

func (e lookupError) Error() string {
	if i := strings.LastIndex(e.Err, ": "); i >= 0 {
		return e.Err[i+2:]
	}
	return e.Err
}

func (e lookupError) Unwrap() error { return e.DNSError }

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// hopeless tells of an error of a server that has never answered whether asking
// again would only make its user wait: its name cannot be looked up, or it did
// not answer in the time it had.
func hopeless(err error) bool {
	var dns *net.DNSError
	var timeout net.Error
	return errors.As(err, &dns) || errors.As(err, &timeout) && timeout.Timeout()
}

// transient tells whether an error may be gone the next time.
func transient(err error) bool {
	var refusal *Error
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var last exhausted
	switch {
	case errors.As(err, &last):
		return false
	case errors.As(err, &refusal):
		return refusal.Status == http.StatusTooManyRequests || refusal.Status >= 500 && refusal.Status != http.StatusNotImplemented
	case errors.Is(err, context.Canceled), refused(err), errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert):
		return false
	case errors.As(err, &dns):
		return dns.IsTemporary && !dns.IsTimeout // the resolver has asked often enough
	case errors.Is(err, errStalled), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return true
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() || strings.Contains(err.Error(), "server closed idle connection")
}
