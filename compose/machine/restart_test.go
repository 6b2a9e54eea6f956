package machine

import (
	"testing"
	"time"

	"github.com/stack-run/stack/engine/container"
)

func TestRestartPolicies(t *testing.T) {
	always := container.Restart{Policy: "always"}
	tests := []struct {
		name  string
		r     container.Restart
		e     ended
		again bool
		delay time.Duration
	}{
		{"no policy", container.Restart{}, ended{ExitCode: 1}, false, 0},
		{"always after success", always, ended{}, true, 100 * time.Millisecond},
		{"always doubles", always, ended{LastDelay: 400 * time.Millisecond}, true, 800 * time.Millisecond},
		{"always stays below a minute", always, ended{LastDelay: 50 * time.Second}, true, time.Minute},
		{"a long run resets", always, ended{LastDelay: 50 * time.Second, RanFor: 10 * time.Second}, true, 100 * time.Millisecond},
		{"stopped by the user", always, ended{StoppedByUser: true}, false, 0},
		{"on-failure after success", container.Restart{Policy: "on-failure"}, ended{}, false, 0},
		{"on-failure after failure", container.Restart{Policy: "on-failure"}, ended{ExitCode: 3}, true, 100 * time.Millisecond},
		{"on-failure used up", container.Restart{Policy: "on-failure", MaxRetries: 2}, ended{ExitCode: 3, Restarts: 2}, false, 0},
		{"always, with attempts left", container.Restart{Policy: "always", MaxRetries: 2}, ended{Restarts: 1}, true, 100 * time.Millisecond},
		{"always used up", container.Restart{Policy: "always", MaxRetries: 2}, ended{Restarts: 2}, false, 0},
		{"a fixed delay", container.Restart{Policy: "always", Delay: 2 * time.Second}, ended{LastDelay: 2 * time.Second}, true, 2 * time.Second},
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
