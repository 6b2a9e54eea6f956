package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ResolveUser translates "user[:group]", by name or number, and additional
// groups with the container's /etc/passwd and /etc/group (nil where missing).
// An empty user is root. As with Docker, a user without an explicit group also
// gets the groups of /etc/group that list it, the primary group is one of the
// additional ones, and home is "/" where passwd does not say.
func ResolveUser(passwd, group []byte, spec string, groupAdd []string) (u specs.User, home string, err error) {
	e, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, reader(passwd), reader(group))
	switch {
	case errors.Is(err, user.ErrNoPasswdEntries):
		return u, "", fmt.Errorf("cannot resolve user %q: /etc/passwd of the image has no such user; use a name it has or a number", spec)
	case errors.Is(err, user.ErrNoGroupEntries):
		return u, "", fmt.Errorf("cannot resolve user %q: /etc/group of the image has no such group; use a name it has or a number", spec)
	case err != nil:
		return u, "", fmt.Errorf("cannot resolve user %q: %w", spec, err)
	}
	u.UID, u.GID = uint32(e.Uid), uint32(e.Gid)
	gids := append([]int{e.Gid}, e.Sgids...)
	if len(groupAdd) > 0 {
		more, err := user.GetAdditionalGroups(groupAdd, reader(group))
		if err != nil {
			return u, "", fmt.Errorf("cannot resolve the additional groups %q: %w; use names of the image's /etc/group or numbers", groupAdd, err)
		}
		slices.Sort(more) // they come out of a map
		gids = append(gids, more...)
	}
	for _, g := range gids {
		if !slices.Contains(u.AdditionalGids, uint32(g)) {
			u.AdditionalGids = append(u.AdditionalGids, uint32(g))
		}
	}
	home = e.Home
	if home == "" {
		home = "/"
	}
	return u, home, nil
}

func reader(b []byte) io.Reader {
	if b == nil {
		return nil
	}
	return bytes.NewReader(b)
}
