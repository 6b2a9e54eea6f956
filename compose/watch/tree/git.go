package tree

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// gitLocks are the files that git holds while it writes a working tree: a switch
// of branches is over when they are gone, however long it takes.
type gitLocks struct {
	paths []string
	stale map[string]time.Time // those that were waited for in vain, by when they were made
}

// longestGit bounds the wait for git.
const longestGit = 30 * time.Second

func (g *gitLocks) find(roots []string) {
	for _, root := range roots {
		for dir := root; dir != "/"; dir = path.Dir(dir) {
			at := filepath.Join(dir, ".git")
			st, err := os.Stat(at)
			if err != nil {
				continue
			}
			if !st.IsDir() && !st.Mode().IsRegular() {
				break
			}
			if !st.IsDir() { // of a further working tree: "gitdir: PATH"
				text, err := os.ReadFile(at)
				to, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: ")
				if err != nil || !ok {
					break
				}
				if at = to; !filepath.IsAbs(at) {
					at = filepath.Join(dir, at)
				}
			}
			if lock := filepath.Join(at, "index.lock"); !slices.Contains(g.paths, lock) {
				g.paths = append(g.paths, lock)
			}
			break
		}
	}
}

// held tells whether git is at work. One that was left behind by a git that was
// killed is waited for once.
func (g *gitLocks) held(since, now time.Time) bool {
	for _, lock := range g.paths {
		st, err := os.Stat(lock)
		if err != nil || g.stale[lock].Equal(st.ModTime()) {
			continue
		}
		if now.Sub(since) < longestGit {
			return true
		}
		if g.stale == nil {
			g.stale = map[string]time.Time{}
		}
		g.stale[lock] = st.ModTime()
	}
	return false
}
