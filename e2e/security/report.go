// Package security compares what a container of stack may see and do with what
// a container of Docker may, item by item.
//
// The program in the folder probe runs inside a container and prints a
// [Report]; [Compare] tells which items of two reports are equal, stricter or
// weaker. The test runs the probe in both:
//
//	go test ./e2e/security -peer
package security

// Report is what a process finds out about its own confinement.
type Report struct {
	// Capabilities are the sets of capabilities(7) by name: Inh, Prm, Eff, Bnd,
	// Amb; each a list such as "chown", "net_raw".
	Capabilities map[string][]string `json:"capabilities"`
	// Status are lines of /proc/self/status that tell of confinement.
	Status map[string]string `json:"status"`
	// Syscalls are what attempts gave: "ok" or the name of an errno. The
	// arguments are such that what is not denied fails or is harmless.
	Syscalls map[string]string `json:"syscalls"`
	// Devices are what opening a freshly made device node gave.
	Devices map[string]string `json:"devices"`
	// Paths are files and directories that tell or change things of the host.
	Paths  map[string]Path  `json:"paths"`
	Mounts map[string]Mount `json:"mounts"` // by target; of several at one, the last
	Dev    map[string]Node  `json:"dev"`    // by path below /dev
	// Namespaces are "own" or "host", by the name in /proc/self/ns.
	Namespaces map[string]string    `json:"namespaces"`
	Rlimits    map[string][2]uint64 `json:"rlimits"` // soft, hard
	// Label is /proc/self/attr/current: the AppArmor profile or SELinux context.
	Label string `json:"label"`
}

// Path is what can be done with a path.
type Path struct {
	// State is "absent", "denied", "empty" (masked), or "readable".
	State    string `json:"state"`
	Writable bool   `json:"writable"`
}

// Mount is a line of /proc/self/mountinfo.
type Mount struct {
	Type    string   `json:"type"`
	Options []string `json:"options"` // of the mount, not of the filesystem
	Shared  bool     `json:"shared"`  // propagates to the host
}

// Node is an entry of /dev.
type Node struct {
	Kind string `json:"kind"` // "c 1:3", "b 8:0", "dir", "link pts/ptmx", "file", "fifo", "socket"
	Mode uint32 `json:"mode"` // permission bits
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// HostNamespacesVariable is the environment variable that gives the probe the
// host's namespaces: "net=4026531840 mnt=…".
const HostNamespacesVariable = "PROBE_HOST_NAMESPACES"
