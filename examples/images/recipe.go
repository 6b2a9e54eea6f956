package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
)

// A Recipe says what one image made of Debian packages consists of. All of it
// goes into the cache key.
type Recipe struct {
	// Ref is the image's reference, such as "redis:7".
	Ref string
	// Packages are installed with all that they depend on.
	Packages []string
	// Drop removes files, and directories with all below them, by patterns of
	// [path.Match].
	Drop []string
	// Users are added to the image's passwd and group files.
	Users []User
	// Dirs, Files and Links are added; a file or link replaces the packages'.
	Dirs  []Dir
	Files map[string]File   // by path without a leading slash
	Links map[string]string // path → target
	// Changes are the image's configuration in Dockerfile words
	// ("CMD [\"redis-server\"]").
	Changes []string
}

// A User is a system user with a group of its own.
type User struct {
	Name string
	ID   int
	Home string
}

// A Dir is an empty directory.
type Dir struct {
	Path string
	Mode int64
	UID  int
}

// A File is a small text file.
type File struct {
	Text string
	Mode int64
	UID  int
}

// Image is a root file system that is ready to import.
type Image struct {
	Ref     string   `json:"ref"`
	Tar     string   `json:"tar"`
	Changes []string `json:"changes"`
}

// recipeVersion is part of every key: it changes when the code that turns a
// recipe into a tar does.
const recipeVersion = "1"

// Suite is the Debian release whose packages are used.
const Suite = "bookworm"

// key is the digest of all that decides the content of the recipe's tar. What
// does not (the reference, the configuration) stays out of it.
func (r Recipe) key(arch string) string {
	r.Ref, r.Changes = "", nil
	b, err := json.Marshal(r)
	if err != nil {
		panic("internal error: recipe is not JSON: " + err.Error()) // plain data always is
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%s", recipeVersion, Suite, arch, b)
	return hex.EncodeToString(h.Sum(nil))[:24]
}

// drops reports whether the file p of a package is left out.
func (r Recipe) drops(p string) bool {
	patterns := slices.Concat(trimmed, r.Drop)
	for ; p != "."; p = path.Dir(p) {
		for _, d := range patterns {
			if ok, err := path.Match(d, p); ok && err == nil {
				return true
			}
		}
	}
	return false
}

// trimmed is what no image needs: documentation, translations, package lists,
// and what the runtime mounts or makes itself.
var trimmed = []string{
	"boot", "dev", "proc", "sys", "run", "lib32", "libx32",
	"usr/share/base-passwd", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale",
	"usr/share/i18n", "usr/share/lintian", "usr/share/bug", "usr/share/doc-base",
	"usr/share/common-licenses", "usr/share/bash-completion", "usr/share/gdb", "usr/share/gcc",
	"usr/lib/systemd", "usr/lib/init", "usr/lib/lsb", "usr/lib/tmpfiles.d", "usr/lib/sysusers.d",
	"usr/share/zoneinfo/right", "usr/share/zoneinfo/posix",
	"usr/share/perl", "usr/share/perl5", "usr/lib/*/perl", "usr/lib/*/perl-base",
	"usr/lib/*/libperl.so.*", "usr/bin/perl*", "usr/lib/*/gconv", "usr/lib/*/libmvec.so.*", "usr/lib/*/libdb-5.3.so",
	"etc/init.d", "etc/cron.*", "etc/logrotate.d", "etc/apt", "etc/rc?.d", "etc/systemd", "etc/default",
	"var/lib/apt", "var/lib/dpkg", "var/cache", "var/log/apt", "var/lib/systemd", "var/lib/ucf",
}

// base are the packages that make a container comfortable to look into.
var base = []string{
	"base-files", "base-passwd", "bash", "dash", "coreutils", "findutils", "grep",
	"sed", "gzip", "tar", "hostname", "libc-bin", "ncurses-base", "util-linux",
	"procps", "netbase", "tzdata",
}

func withBase(packages ...string) []string {
	return slices.Sorted(slices.Values(slices.Concat(base, packages)))
}

// sortedKeys makes the order of a map's entries in a tar a fact of the recipe.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
