// Package health is what is asked of a container's health check and what came
// of it, and the rules that lead from one to the other: plain data and a state
// machine without a clock.
package health

import "time"

// Spec is a health check in Docker's terms. Zero durations mean the default.
type Spec struct {
	// Test is ["NONE"], ["CMD", arg…] or ["CMD-SHELL", command], or one that the
	// engine makes itself, such as ["HTTP", URL]. Empty means that there is no check.
	Test          []string      `json:"test,omitempty"`
	Interval      time.Duration `json:"interval,omitempty"`      // default 30 s
	Timeout       time.Duration `json:"timeout,omitempty"`       // default 30 s
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`   // default 0 s
	StartInterval time.Duration `json:"startInterval,omitempty"` // default 5 s
	Retries       int           `json:"retries,omitempty"`       // default 3
}

// Status is a container's health as Docker names it.
type Status string

const (
	None      Status = ""
	Starting  Status = "starting"
	Healthy   Status = "healthy"
	Unhealthy Status = "unhealthy"
)

// Result is the outcome of one probe.
type Result struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int       `json:"exitCode"` // 0 healthy; -1 when the probe could not run or timed out
	Output   string    `json:"output"`   // at most 4096 bytes
}

// State is a container's health with its history, as it is stored and shown.
type State struct {
	Status        Status   `json:"status"`
	FailingStreak int      `json:"failingStreak"`
	Log           []Result `json:"log,omitempty"` // oldest first, at most MaxResults
}

const (
	// MaxResults is how many results are kept, MaxOutput how many bytes of a
	// probe's output.
	MaxResults = 5
	MaxOutput  = 4096
)
