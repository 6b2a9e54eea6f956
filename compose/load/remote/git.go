// Package remote fetches Compose files that are not on this machine: those in git
// repositories, which git itself fetches.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Git keeps copies of repositories in Dir, one directory for each commit, because
// containers bind files of them for as long as they exist.
type Git struct {
	Dir     string
	Environ []string
}

// Address is a repository with what of it is meant.
type Address struct{ Repository, Ref, Path string }

// ParseGit takes a reference such as https://host/app.git#main:dir apart. It is no
// git repository if ok is false.
func ParseGit(ref string) (a Address, ok bool) {
	url, fragment, _ := strings.Cut(ref, "#")
	switch {
	case strings.HasPrefix(url, "github.com/"):
		url = "https://" + url
	case strings.HasPrefix(url, "git://"), strings.HasPrefix(url, "ssh://"), strings.HasPrefix(url, "git@"):
	case strings.HasPrefix(url, "https://"), strings.HasPrefix(url, "http://"):
		if !strings.HasSuffix(url, ".git") && !strings.HasPrefix(url, "https://github.com/") {
			return Address{}, false
		}
	default:
		return Address{}, false
	}
	a.Repository = url
	a.Ref, a.Path, _ = strings.Cut(fragment, ":")
	if a.Ref == "" {
		a.Ref = "HEAD"
	}
	return a, true
}

var commit = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// Fetch has a copy of what is meant, and returns the path of it. A commit that is
// there already is not fetched again.
func (g Git) Fetch(ctx context.Context, a Address) (string, error) {
	if !filepath.IsLocal(filepath.FromSlash(a.Path)) && a.Path != "" {
		return "", fmt.Errorf("cannot use %q of repository %s: it is not a path in the repository", a.Path, a.Repository)
	}
	if strings.HasPrefix(a.Ref, "-") {
		return "", fmt.Errorf("cannot use %q of repository %s: it is no branch, tag or commit", a.Ref, a.Repository)
	}
	id := a.Ref
	if !commit.MatchString(id) {
		out, err := g.run(ctx, "", "ls-remote", "--exit-code", "--", a.Repository, a.Ref)
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.ExitCode() == 2:
			return "", fmt.Errorf("cannot fetch repository %s: it has no %q; name a branch, a tag or a commit behind #", a.Repository, a.Ref)
		case err != nil:
			return "", fmt.Errorf("cannot fetch repository %s: %w", a.Repository, err)
		}
		id, _, _ = strings.Cut(out, "\t")
		if !commit.MatchString(id) {
			return "", fmt.Errorf("cannot fetch repository %s: git names no commit for %q: %q", a.Repository, a.Ref, out)
		}
	}
	dir := filepath.Join(g.Dir, id)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := g.copy(ctx, dir, a.Repository, id); err != nil {
			return "", fmt.Errorf("cannot fetch repository %s: %w", a.Repository, err)
		}
	} else if err != nil {
		return "", err
	}
	return inside(dir, a.Path)
}

// copy fetches one commit. The directory has its name only when it is complete.
func (g Git) copy(ctx context.Context, dir, repository, id string) error {
	if err := os.MkdirAll(g.Dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(g.Dir, ".fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // gone already when all went well
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"fetch", "--quiet", "--depth=1", "--", repository, id},
		{"checkout", "--quiet", "--detach", "FETCH_HEAD"},
	} {
		if _, err := g.run(ctx, tmp, args...); err != nil {
			return err
		}
	}
	err = os.Rename(tmp, dir)
	if _, there := os.Stat(dir); there == nil { // another command was quicker
		return nil
	}
	return err
}

// inside is a path in a copy, which no symbolic link of the repository leads out of.
func inside(dir, path string) (string, error) {
	real, err := filepath.EvalSymlinks(filepath.Join(dir, filepath.FromSlash(path)))
	if err != nil {
		return "", fmt.Errorf("cannot use %q of the repository: %w", path, err)
	}
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(top, real); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("cannot use %q of the repository: it leads out of it", path)
	}
	return real, nil
}

// run runs git, which must not ask anybody for a password.
func (g Git) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"GIT_TERMINAL_PROMPT=0", "GIT_SSH_COMMAND=ssh -o ControlMaster=no -o BatchMode=yes"}, g.Environ...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("there is no git; install it, or fetch the project by hand")
	}
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		return "", fmt.Errorf("%w: %s", err, text)
	}
	return string(out), err
}
