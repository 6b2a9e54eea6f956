package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// Attributes of a service that are ours. Compose leaves to others what begins with x-.
const (
	// DirectCheck is a health check that the engine makes itself: one of http, tcp, log
	// and file. Its times are those of healthcheck.
	DirectCheck = "x-healthcheck"
	// OnUnhealthy is what happens when the check has failed.
	OnUnhealthy = "x-on-unhealthy"
)

// Checked tells whether a service's file has a health check.
func Checked(s types.ServiceConfig) bool {
	if h := s.HealthCheck; h != nil && (h.Disable || len(h.Test) > 0) {
		return !h.Disable && h.Test[0] != "NONE"
	}
	return s.Extensions[DirectCheck] != nil
}

// directChecks are the keys of x-healthcheck.
var directChecks = map[string]struct {
	kind    string
	parse   func(string) (string, error)
	example string
}{
	"http": {health.HTTP, health.ParseHTTP, `":8080/healthz"`},
	"tcp":  {health.TCP, health.ParseTCP, "5432"},
	"log":  {health.Log, health.ParseLog, `"ready to accept connections"`},
	"file": {health.File, health.ParseFile, "/run/ready"},
}

// directCheck reads x-healthcheck into the test of a health check, nil for none.
func (b *builder) directCheck(s types.ServiceConfig) []string {
	value, ok := s.Extensions[DirectCheck]
	if !ok || value == nil {
		return nil
	}
	path := "services." + s.Name + "." + DirectCheck
	const what = "x-healthcheck has one of http, tcp, log and file, such as http: \":8080/healthz\""
	keys, ok := value.(map[string]any)
	if !ok {
		b.fail(path, "%s, and is not %v", what, value)
		return nil
	}
	var test []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		check, known := directChecks[key]
		at := path + "." + key
		switch {
		case !known && slices.Contains([]string{"interval", "timeout", "retries", "start_period", "start_interval", "test", "disable"}, key):
			b.fail(at, "%s is an attribute of healthcheck, and goes there", key)
			continue
		case !known:
			b.fail(at, "unknown attribute %q%s; %s", key, didYouMean(key, slices.Sorted(maps.Keys(directChecks))), what)
			continue
		case test != nil:
			b.fail(at, "a service has one check: %s; remove one of them", what)
			continue
		}
		var text string
		switch v := keys[key].(type) {
		case string:
			text = v
		case int, int64, uint64, float64:
			text = fmt.Sprint(v)
		default:
			b.fail(at, "%s is not %v; write it like %s", key, v, check.example)
			continue
		}
		parsed, err := check.parse(strings.TrimSpace(text))
		if err != nil {
			b.fail(at, "%w", err)
			continue
		}
		test = []string{check.kind, parsed}
	}
	if len(keys) == 0 {
		b.fail(path, "%s", what)
	}
	if test != nil && test[0] == health.Log && s.Logging != nil && s.Logging.Driver == "none" {
		b.fail(path+".log", "there is no log to look into, as logging.driver is none; use another driver, or another check")
	}
	return test
}

// onUnhealthy reads x-on-unhealthy.
func (b *builder) onUnhealthy(s types.ServiceConfig) container.OnUnhealthy {
	value, ok := s.Extensions[OnUnhealthy]
	if !ok || value == nil {
		return ""
	}
	path := "services." + s.Name + "." + OnUnhealthy
	text, _ := value.(string)
	switch text {
	case "none":
		return ""
	case string(container.UnhealthyRestart), string(container.UnhealthyStop), string(container.UnhealthyKill):
	default:
		b.fail(path, "x-on-unhealthy is restart, stop, kill or none, not %v%s", value, didYouMean(text, []string{"restart", "stop", "kill", "none"}))
		return ""
	}
	if h := s.HealthCheck; h != nil && !Checked(s) && (h.Disable || len(h.Test) > 0) {
		b.fail(path, "it would never happen, as the health check is disabled; remove one of them")
	}
	return container.OnUnhealthy(text)
}
