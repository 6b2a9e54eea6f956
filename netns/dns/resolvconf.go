package dns

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// Config is a resolv.conf(5).
type Config struct {
	Nameservers []netip.Addr
	Search      []string
	Options     []string
}

// ParseConfig reads a resolv.conf(5); lines it does not understand are left out,
// as resolvers do.
func ParseConfig(b []byte) Config {
	var c Config
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line, _, _ = strings.Cut(line, ";")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil {
				c.Nameservers = append(c.Nameservers, a)
			}
		case "search", "domain":
			c.Search = words[1:] // the last one counts
		case "options":
			c.Options = append(c.Options, words[1:]...)
		}
	}
	return c
}

// File is a resolv.conf that is read again when it changes.
type File struct {
	path string

	mu      sync.Mutex
	changed time.Time
	size    int64
	config  Config
}

// NewFile returns the file of the path, which is read on demand.
func NewFile(path string) *File { return &File{path: path} }

// Config is the file's present content; that of a file that cannot be read is
// empty.
func (f *File) Config() Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, err := os.Stat(f.path)
	if err != nil {
		f.changed = time.Time{}
		return Config{}
	}
	// A file changed just now may change again within the clock's grain.
	if !f.changed.Equal(st.ModTime()) || f.size != st.Size() || time.Since(st.ModTime()) < time.Second {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return Config{}
		}
		f.changed, f.size, f.config = st.ModTime(), st.Size(), ParseConfig(b)
	}
	return f.config
}

// Servers are addresses with the port of DNS.
func Servers(addrs []netip.Addr) []netip.AddrPort {
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a, 53)
	}
	return out
}
