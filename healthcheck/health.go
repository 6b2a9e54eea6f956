package healthcheck

import (
	"time"

	"github.com/stack-run/stack/healthcheck/health"
)

// The words of package health, for those that also probe.
type (
	Spec    = health.Spec
	Status  = health.Status
	Result  = health.Result
	State   = health.State
	Tracker = health.Tracker
)

const (
	None      = health.None
	Starting  = health.Starting
	Healthy   = health.Healthy
	Unhealthy = health.Unhealthy

	DefaultInterval      = health.DefaultInterval
	DefaultTimeout       = health.DefaultTimeout
	DefaultStartInterval = health.DefaultStartInterval
	DefaultRetries       = health.DefaultRetries

	MaxResults = health.MaxResults
	MaxOutput  = health.MaxOutput
)

// Merge is [health.Merge].
func Merge(image, service *Spec) *Spec { return health.Merge(image, service) }

// NewTracker is [health.NewTracker].
func NewTracker(spec Spec, started time.Time) *Tracker { return health.NewTracker(spec, started) }

// ResumeTracker is [health.ResumeTracker].
func ResumeTracker(spec Spec, started time.Time, status Status, streak int, last time.Time) *Tracker {
	return health.ResumeTracker(spec, started, status, streak, last)
}
