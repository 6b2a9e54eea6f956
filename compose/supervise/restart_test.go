package supervise

import (
	"testing"
	"time"

	"github.com/stack-run/stack/engine"
)

func TestRestartPolicies(t *testing.T) {
	always := engine.Restart{Policy: "always"}
	tests := []struct {
		name  string
		r     engine.Restart
		e     ended
		again bool
		delay time.Duration
	}{
		{"no policy", engine.Restart{}, ended{ExitCode: 1}, false, 0},
		{"always after success", always, ended{}, true, 100 * time.Millisecond},
		{"always doubles", always, ended{LastDelay: 400 * time.Millisecond}, true, 800 * time.Millisecond},
		{"always stays below a minute", always, ended{LastDelay: 50 * time.Second}, true, time.Minute},
		{"a long run resets", always, ended{LastDelay: 50 * time.Second, RanFor: 10 * time.Second}, true, 100 * time.Millisecond},
		{"stopped by the user", always, ended{StoppedByUser: true}, false, 0},
		{"on-failure after success", engine.Restart{Policy: "on-failure"}, ended{}, false, 0},
		{"on-failure after failure", engine.Restart{Policy: "on-failure"}, ended{ExitCode: 3}, true, 100 * time.Millisecond},
		{"on-failure used up", engine.Restart{Policy: "on-failure", MaxRetries: 2}, ended{ExitCode: 3, Restarts: 2}, false, 0},
		{"a fixed delay", engine.Restart{Policy: "always", Delay: 2 * time.Second}, ended{LastDelay: 2 * time.Second}, true, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			again, delay := restartAfter(tt.r, tt.e)
			if again != tt.again || delay != tt.delay {
				t.Errorf("restartAfter = %v, %v; want %v, %v", again, delay, tt.again, tt.delay)
			}
		})
	}
}

func TestStartsAtBoot(t *testing.T) {
	for _, tt := range []struct {
		policy           string
		stopped, running bool
		want             bool
	}{
		{"always", true, false, true},
		{"unless-stopped", true, false, false},
		{"unless-stopped", false, true, true},
		{"on-failure", false, true, true},
		{"on-failure", false, false, false},
		{"no", false, true, false},
	} {
		if got := startsAtBoot(engine.Restart{Policy: tt.policy}, tt.stopped, tt.running); got != tt.want {
			t.Errorf("startsAtBoot(%s, stopped %v, running %v) = %v, want %v", tt.policy, tt.stopped, tt.running, got, tt.want)
		}
	}
}
