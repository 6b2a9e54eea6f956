package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"
)

func readResponse(conn net.Conn, req *http.Request) (string, error) {
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 400 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// fetch gets a page that must be there within a few seconds.
func fetch(t *testing.T, url string) string {
	t.Helper()
	var body string
	eventually(t, 5*time.Second, func() (err error) {
		body, err = get(url)
		return err
	})
	return body
}

// freePort returns a TCP port that nobody listens on. The network namespace is
// the tests' own, so nobody takes it meanwhile.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// listenOn takes a TCP port of the host until stop is called.
func listenOn(t *testing.T, port string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func() { l.Close() }
}
