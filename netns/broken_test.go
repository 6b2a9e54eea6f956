package netns

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// damages are what can happen to a file.
var damages = map[string]func(path string) error{
	"missing": os.Remove,
	"empty":   func(path string) error { return os.Truncate(path, 0) },
	"cut": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	},
	"garbled": func(path string) error { return os.WriteFile(path, []byte("\x7fELF"), 0o600) },
	"newer":   func(path string) error { return os.WriteFile(path, []byte(`{"version":99,"name":["x"]}`), 0o600) },
	"a directory": func(path string) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
	},
}

func (l *lab) recordPath(n Network) string { return filepath.Join(l.networkDir(), n.ID+".json") }

// names lists the networks that List shows.
func (l *lab) names() []string {
	l.t.Helper()
	all, err := l.List()
	if err != nil {
		l.t.Error(err)
	}
	var names []string
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names
}

func TestABrokenNetworkInUseIsRebuilt(t *testing.T) {
	for damage, harm := range damages {
		if damage == "newer" {
			continue
		}
		t.Run(damage, func(t *testing.T) {
			l := newLab(t)
			spec := NetworkSpec{Name: "shop_default", Project: "shop", Key: "default", Labels: map[string]string{"a": "b"}}
			bad := l.network(spec)
			l.network(NetworkSpec{Name: "good"})
			l.attach(EndpointSpec{ID: "web", Key: "shop/web/1", Networks: on("shop_default")})
			if err := harm(l.recordPath(bad)); err != nil {
				t.Fatal(err)
			}
			if got := l.names(); !slices.Equal(got, []string{"good", "shop_default"}) {
				t.Fatalf("networks: %v", got)
			}
			// It goes on as it was: the next container comes into the same subnet.
			e := l.attach(EndpointSpec{ID: "db", Key: "shop/db/1", Networks: on("shop_default")})
			if !bad.IPv4.Contains(e.Links[0].IPv4) || e.Links[0].NetworkID != bad.ID {
				t.Errorf("attached to %+v, the network is %+v", e.Links[0], bad)
			}
			if _, err := l.Ensure(t.Context(), "shop_default"); err != nil {
				t.Fatal(err)
			}
			if r, err := l.record(bad.ID); err != nil || r.rebuilt {
				t.Errorf("it is not written: %v", err)
			}
			n, err := l.Create(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if n.ID != bad.ID || n.Bridge != bad.Bridge || n.IPv4 != bad.IPv4 || n.Gateway4 != bad.Gateway4 || n.IPv6 != bad.IPv6 || n.Labels["a"] != "b" {
				t.Errorf("written again as %+v, it was %+v", n, bad)
			}
		})
	}
}

func TestABrokenNetworkWithoutUsersIsSetAside(t *testing.T) {
	for damage, harm := range damages {
		if damage == "missing" {
			continue // then there is none
		}
		t.Run(damage, func(t *testing.T) {
			l := newLab(t)
			bad := l.network(NetworkSpec{Name: "shop_default", Project: "shop", Key: "default"})
			l.network(NetworkSpec{Name: "good"})
			if _, err := l.Ensure(t.Context(), "shop_default"); err != nil {
				t.Fatal(err)
			}
			// Without it, as after a boot, and with the bridge all the same.
			if err := errors.Join(os.Remove(l.copyPath(bad.ID)), harm(l.recordPath(bad))); err != nil {
				t.Fatal(err)
			}
			if got := l.names(); !slices.Contains(got, "good") {
				t.Fatalf("networks: %v", got)
			}
			if _, err := l.Ensure(t.Context(), "good"); err != nil {
				t.Error(err)
			}
			broken, err := l.Broken()
			if damage == "cut" {
				if err != nil || len(broken) != 0 { // the bridge and the rest say it all
					t.Errorf("broken: %v, %v", broken, err)
				}
				return
			}
			if err != nil || len(broken) != 1 || broken[0].ID != bad.ID || broken[0].Path != l.recordPath(bad) {
				t.Fatalf("broken: %v, %v", broken, err)
			}
			err = l.Remove(t.Context(), short(bad.ID))
			if damage == "newer" {
				if err == nil || !broken[0].Newer {
					t.Errorf("what a newer version recorded is removed: %v", err)
				}
				if err := os.WriteFile(l.recordPath(bad), mustJSON(record{Version: recordVersion, Network: bad}), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Error(err)
			}
			if _, err := net.InterfaceByName(bad.Bridge); err == nil {
				t.Errorf("the bridge %s is left", bad.Bridge)
			}
			if _, err := os.Lstat(l.recordPath(bad)); err == nil {
				t.Error("the record is left")
			}
		})
	}
}

func TestBrokenLeasesAreForgotten(t *testing.T) {
	for damage, harm := range damages {
		t.Run(damage, func(t *testing.T) {
			l := newLab(t)
			n := l.network(NetworkSpec{Name: "a"})
			l.attach(EndpointSpec{ID: "x", Key: "x", Networks: on("a")})
			if err := harm(l.leasePath(n.ID)); err != nil {
				t.Fatal(err)
			}
			l.attach(EndpointSpec{ID: "y", Key: "y", Networks: on("a")})
		})
	}
}

func TestABrokenEndpointIsRestored(t *testing.T) {
	for damage, harm := range damages {
		if damage == "newer" || damage == "a directory" || damage == "missing" {
			continue // it has no version, and what is not empty is moved by hand
		}
		t.Run(damage, func(t *testing.T) {
			l := newLab(t)
			l.network(NetworkSpec{Name: "a"})
			e := l.attach(EndpointSpec{ID: "x", Key: "x", Networks: on("a")})
			if err := harm(l.endpointPath("x")); err != nil {
				t.Fatal(err)
			}
			if got := l.BrokenEndpoints(); !slices.Equal(got, []string{"x"}) {
				t.Fatalf("broken: %v", got)
			}
			if err := l.Restore(e, true); err != nil {
				t.Fatal(err)
			}
			if err := l.Sweep(t.Context(), func(string) bool { return true }); err != nil {
				t.Fatal(err)
			}
			if _, err := net.InterfaceByName(e.Links[0].HostLink); err != nil {
				t.Errorf("the link of a live endpoint is gone: %v", err)
			}
		})
	}
}
