// Package healthcheck decides how healthy a container is, with Docker's rules
// and words, only sooner.
//
// The first probe runs at once and not after an interval; until the container is
// healthy for the first time probes follow each other after 30 ms, growing by
// half up to start_interval, so that a service that is ready after 200 ms is
// seen to be. Failures of these additional probes do not count: a container
// turns unhealthy no earlier than Docker would make it so.
//
// Package health has the words and, with Tracker, the rules, without a clock; Run
// drives them.
package healthcheck
