package apply

import "time"

// Event is one step of progress, for a person to watch or a program to read.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is "Container", "Network", "Volume" or "Image".
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Status is the word docker compose shows: Creating, Created, Starting,
	// Started, Waiting, Healthy, Exited, Recreate, Recreated, Running, Stopping,
	// Stopped, Removing, Removed, Killing, Killed, Restarting, Error, Warning, Skipped …
	Status string `json:"status"`
	// Done says that nothing more follows for this name unless it changes again.
	Done bool `json:"done,omitempty"`
	// Text is the rest of the line: a cause ("environment.LOG_LEVEL "info" → "debug""),
	// an error, or what is waited for.
	Text string `json:"text,omitempty"`
	// Current and Total count bytes while they move. Such an event is one of
	// many: displays that do not draw over what they have shown leave it out.
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}
