package desired

import (
	"maps"
	"slices"
)

// What develop.watch does about a change.
const (
	WatchSync        = "sync"
	WatchRebuild     = "rebuild"
	WatchRestart     = "restart"
	WatchSyncRestart = "sync+restart"
	WatchSyncExec    = "sync+exec"
)

// Trigger is one entry of develop.watch.
type Trigger struct {
	// At is the entry's path in the model, "services.web.develop.watch[0]", and
	// Where its place, "compose.yaml:12", if known.
	At, Where string
	// Path is absolute, and a link no more.
	Path            string
	Action          string
	Target          string // in the container, absolute
	Ignore, Include []string
	InitialSync     bool
	Exec            Hook
	// BuildContext is the directory that the service is built from, "" if it is
	// not, and Dockerfile is relative to it.
	BuildContext, Dockerfile string
	// Bound says that Path is mounted at Target anyway: there is nothing to
	// copy, and what is changed here is changed there.
	Bound bool
	// Aside are files that an initial sync leaves out: the Compose files and the
	// Dockerfile.
	Aside []string
}

// Watched are, sorted, those of services, or of all where none is named, that say
// what is to be watched.
func (p *Project) Watched(services []string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.Services)), func(name string) bool {
		return len(p.Services[name].Watch) == 0 || len(services) > 0 && !slices.Contains(services, name)
	})
}
