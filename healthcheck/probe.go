package healthcheck

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Dial connects to an address inside a container, typically from its network
// namespace.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// TCPProbe is healthy when a TCP connection to addr ("127.0.0.1:5432") is
// accepted. It starts no process in the container.
func TCPProbe(dial Dial, addr string) Probe {
	return func(ctx context.Context) Result {
		start := time.Now()
		conn, err := dial(ctx, "tcp", addr)
		if err != nil {
			return failed(start, fmt.Sprintf("cannot connect to %s: %v", addr, err))
		}
		conn.Close()
		return Result{Start: start, End: time.Now(), Output: "connected to " + addr}
	}
}

// HTTPProbe is healthy when GET path at addr ("127.0.0.1:8080") answers with a
// status of 200 to 399. Redirects are not followed. It speaks HTTP/1.1 by itself:
// net/http would cost every command its start-up time.
func HTTPProbe(dial Dial, addr, path string) Probe {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return func(ctx context.Context) Result {
		start := time.Now()
		if strings.ContainsAny(path+addr, " \r\n") {
			return failed(start, fmt.Sprintf("cannot probe %q at %q: blanks are not allowed in a URL", path, addr))
		}
		status, body, err := get(ctx, dial, addr, path)
		if err != nil {
			return failed(start, fmt.Sprintf("GET http://%s%s: %v", addr, path, err))
		}
		r := Result{Start: start, End: time.Now(), Output: strings.TrimSpace(fmt.Sprintf("HTTP %d\n%s", status, body))}
		if !healthyHTTP(status) {
			r.ExitCode = 1
		}
		return r
	}
}

func failed(start time.Time, text string) Result {
	return Result{Start: start, End: time.Now(), ExitCode: 1, Output: text}
}

func healthyHTTP(status int) bool { return status >= 200 && status <= 399 }

// get sends one request and reads the status, and of a failure the beginning of
// the body as it is on the wire.
func get(ctx context.Context, dial Dial, addr, path string) (status int, body string, err error) {
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: stack-healthcheck\r\nAccept: */*\r\nConnection: close\r\n\r\n", path, addr)
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, "", err
	}
	// A megabyte of headers is not what a health check answers with.
	r := bufio.NewReader(io.LimitReader(conn, 1<<20))
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, "", fmt.Errorf("no HTTP answer: %w", err)
		}
		var major, minor int
		if _, err := fmt.Sscanf(line, "HTTP/%d.%d %d", &major, &minor, &status); err != nil {
			return 0, "", fmt.Errorf("no HTTP answer: %.80q", line)
		}
		if err := skipHeaders(r); err != nil {
			return 0, "", err
		}
		if status >= 200 {
			break // 1xx are announcements
		}
	}
	if healthyHTTP(status) {
		return status, "", nil // the body may be long in coming, or a stream
	}
	b, _ := io.ReadAll(io.LimitReader(r, MaxOutput))
	return status, string(b), nil
}

func skipHeaders(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("HTTP headers without end: %w", err)
		}
		if strings.TrimRight(line, "\r\n") == "" {
			return nil
		}
	}
}
