package health

import (
	"strings"
	"testing"
)

func TestDirect(t *testing.T) {
	for _, c := range []struct {
		parse     func(string) (string, error)
		text      string
		want, bad string
	}{
		{ParseHTTP, ":8080/healthz", "http://localhost:8080/healthz", ""},
		{ParseHTTP, "/healthz", "http://localhost/healthz", ""},
		{ParseHTTP, ":8080", "http://localhost:8080", ""},
		{ParseHTTP, "https://[::1]:8443/a?b=c#d", "https://[::1]:8443/a?b=c", ""},
		{ParseHTTP, "http://127.0.0.1", "http://127.0.0.1", ""},
		{ParseHTTP, "", "", "is no URL"},
		{ParseHTTP, "8080", "", "is no URL"},
		{ParseHTTP, "localhost:8080/x", "", "is no URL"},
		{ParseHTTP, "ftp://localhost/", "", "is no URL"},
		{ParseHTTP, ":99999/", "", "is no port"},
		{ParseHTTP, ":x/", "", "is no URL"},
		{ParseHTTP, "http://db:8080/", "", "from inside of the container"},
		{ParseHTTP, "http://a:secret@localhost/", "", "has a user"},
		{ParseHTTP, ":80/\x00", "", "is no URL"},
		{ParseTCP, "5432", "localhost:5432", ""},
		{ParseTCP, ":5432", "localhost:5432", ""},
		{ParseTCP, "127.0.0.1:5432", "127.0.0.1:5432", ""},
		{ParseTCP, "[::1]:5432", "[::1]:5432", ""},
		{ParseTCP, "0", "", "is no port"},
		{ParseTCP, "-1", "", "is no port"},
		{ParseTCP, "", "", "is no port"},
		{ParseTCP, "db:5432", "", "from inside of the container"},
		{ParseTCP, "fe80::1%eth0:5432", "", "from inside of the container"},
		{ParseLog, "ready to accept", "ready to accept", ""},
		{ParseLog, "^ready$", "^ready$", ""},
		{ParseLog, "", "", "is empty"},
		{ParseLog, "[ready", "", "is no regular expression"},
		{ParseFile, "/run//ok", "/run/ok", ""},
		{ParseFile, "/../../etc", "/etc", ""},
		{ParseFile, "run/ok", "", "does not begin with a /"},
	} {
		got, err := c.parse(c.text)
		if got != c.want || c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%q: %q, %v", c.text, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is told: %v", err)
		}
	}
	direct := &Spec{Test: []string{HTTP, "http://localhost/"}}
	if !direct.Direct() || !direct.Enabled() || direct.Command([]string{"sh"}) != nil {
		t.Error("an HTTP test has a command")
	}
	if (&Spec{Test: []string{"CMD", "TCP"}}).Direct() || (*Spec)(nil).Direct() {
		t.Error("a command is taken for a direct test")
	}
}
