package summary

import (
	"testing"
	"time"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
)

func TestStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for want, s := range map[string]engine.State{
		"Created":                        {Phase: engine.Created},
		"Up 3 minutes":                   {Phase: engine.Running, StartedAt: ago(3 * time.Minute)},
		"Up Less than a second":          {Phase: engine.Running, StartedAt: now},
		"Up 3 minutes (healthy)":         {Phase: engine.Running, StartedAt: ago(3 * time.Minute), Health: healthcheck.Healthy},
		"Up 1 second (health: starting)": {Phase: engine.Running, StartedAt: ago(time.Second), Health: healthcheck.Starting},
		"Up 2 hours (unhealthy)":         {Phase: engine.Running, StartedAt: ago(2 * time.Hour), Health: healthcheck.Unhealthy},
		"Up About an hour (Paused)":      {Phase: engine.Paused, StartedAt: ago(time.Hour)},
		"Restarting (1) 2 seconds ago":   {Phase: engine.Restarting, ExitCode: 1, FinishedAt: ago(2 * time.Second)},
		"Exited (137) 2 seconds ago":     {Phase: engine.Exited, ExitCode: 137, FinishedAt: ago(2 * time.Second)},
		"Removal In Progress":            {Phase: engine.Removing},
		"Dead":                           {Phase: engine.Dead},
	} {
		if got := Status(s, now); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFormatPorts(t *testing.T) {
	for want, ports := range map[string][]Publisher{
		"": nil,
		"0.0.0.0:8080->80/tcp, [::]:8080->80/tcp": {{"0.0.0.0", 80, 8080, "tcp"}, {"::", 80, 8080, "tcp"}},
		"127.0.0.1:80-82->80-82/tcp":              {{"127.0.0.1", 80, 80, "tcp"}, {"127.0.0.1", 81, 81, "tcp"}, {"127.0.0.1", 82, 82, "tcp"}},
		"80/tcp, 0.0.0.0:53->53/udp, 0.0.0.0:81->80/tcp": {
			{"", 80, 0, "tcp"}, {"0.0.0.0", 53, 53, "udp"}, {"0.0.0.0", 80, 81, "tcp"}},
		"0.0.0.0:80->80/tcp, 0.0.0.0:90->90/tcp": {{"0.0.0.0", 80, 80, "tcp"}, {"0.0.0.0", 90, 90, "tcp"}},
	} {
		if got := FormatPorts(ports); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestID(t *testing.T) {
	for in, want := range map[string]string{
		"0123456789abcdef0123": "0123456789ab", "sha256:0123456789abcdef": "0123456789ab", "short": "short",
	} {
		if got := ID(in, false); got != want {
			t.Errorf("ID(%q) = %q, want %q", in, got, want)
		}
	}
}
