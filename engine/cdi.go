package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/cdi"
	"github.com/stack-run/stack/engine/runtime"
)

// IsCDI tells whether a device is named as CDI does, VENDOR/CLASS=NAME, and not by a path.
func IsCDI(device string) bool { return cdi.IsName(device) }

// CheckDeviceRequest tells what of a request can be had on no machine.
func CheckDeviceRequest(r DeviceRequest) error { return cdi.Request(r).Fault() }

// deviceEdits are what the devices that are asked for by name or kind change about a
// container, nil for none.
func deviceEdits(iso Isolation) (*cdi.Edits, error) {
	if len(iso.CDI)+len(iso.DeviceRequests) == 0 {
		return nil, nil
	}
	known := cdi.Load(cdi.Dirs()...)
	names := append([]string(nil), iso.CDI...)
	for _, r := range iso.DeviceRequests {
		selected, err := known.Select(cdi.Request(r))
		if err != nil {
			return nil, err
		}
		names = append(names, selected...)
	}
	edits, err := known.Edits(names)
	if err != nil {
		return nil, err
	}
	for _, h := range edits.Hooks {
		if !runs(h.HookName) {
			return nil, fmt.Errorf("a device needs the hook %s to be run at %s, which is not supported; those at prestart, createRuntime and createContainer are", h.Path, h.HookName)
		}
	}
	if mode := iso.UserNSMode; len(edits.Hooks) > 0 && mode != "" && mode != "host" {
		// They would write as the host's root, who is nobody in the container's files.
		return nil, fmt.Errorf("a device needs the hook %s to be run, which cannot be with a user namespace; leave out userns_mode: %s", edits.Hooks[0].Path, mode)
	}
	return edits, nil
}

// runs tells whether hooks of a name are run. All are, one after the other, at the moment
// when the root file system is mounted and nothing of the container runs.
func runs(hook string) bool {
	return hook == "prestart" || hook == "createRuntime" || hook == "createContainer"
}

// applyEdits puts what devices change into the facts that a specification is made of. It is
// what the reference library does (container-edits.go).
func applyEdits(e *cdi.Edits, user specs.User, f *Facts) error {
	if e == nil {
		return nil
	}
	f.Env, f.GIDs = e.Env, e.AdditionalGIDs
	for _, n := range e.DeviceNodes {
		d := specs.LinuxDevice{Path: n.Path, Type: n.Type, Major: n.Major, Minor: n.Minor, FileMode: n.FileMode, UID: n.UID, GID: n.GID}
		if d.Type == "u" {
			d.Type = "c"
		}
		if d.Type == "p" {
			return fmt.Errorf("the device node %s is a FIFO, which is not supported", n.Path)
		}
		if d.Type == "" || d.Major == 0 {
			host, err := deviceNode(first(n.HostPath, n.Path), n.Path)
			if err != nil {
				return err
			}
			if d.Type != "" && d.Type != host.Type {
				return fmt.Errorf("cannot add device %s: it is of type %s on this host, not %s as its specification says", n.Path, host.Type, d.Type)
			}
			d.Type, d.Major, d.Minor = host.Type, host.Major, host.Minor
			if d.FileMode == nil {
				d.FileMode = host.FileMode
			}
		}
		if d.UID == nil && user.UID > 0 {
			d.UID = &user.UID
		}
		if d.GID == nil && user.GID > 0 {
			d.GID = &user.GID
		}
		f.Devices = append(f.Devices, d)
		if f.DeviceSources == nil {
			f.DeviceSources = map[string]string{}
		}
		f.DeviceSources[filepath.Clean(n.Path)] = first(n.HostPath, n.Path)
		f.DeviceRules = append(f.DeviceRules, deviceRule(d, first(n.Permissions, "rwm")))
	}
	for _, m := range e.Mounts {
		kind := first(m.Type, "bind")
		if kind == "none" {
			kind = "bind"
		}
		if kind != "bind" && kind != "tmpfs" {
			return fmt.Errorf("a device needs a mount of type %s at %s, which is not supported", kind, m.ContainerPath)
		}
		f.Mounts = append(f.Mounts, specs.Mount{Destination: m.ContainerPath, Source: m.HostPath, Type: kind, Options: m.Options})
	}
	return nil
}

// hookBound limits a hook that has no limit of its own.
const hookBound = time.Minute

// hooks runs what devices want to be run for a container, nil for nothing. The programs are
// the host's and run there; they find the container's files at root.path of the bundle's
// config.json (OCI runtime specification, "POSIX-platform Hooks").
func (e *Engine) hooks(ctx context.Context, c *Container, edits *cdi.Edits, spec *specs.Spec) func(*runtime.Process) error {
	if edits == nil || len(edits.Hooks) == 0 {
		return nil
	}
	return func(p *runtime.Process) (err error) {
		bundle := filepath.Join(e.Records.RunDir(c.ID), "bundle")
		defer func() { err = errors.Join(err, os.RemoveAll(bundle)) }()
		config := *spec
		config.Root = &specs.Root{Path: fmt.Sprintf("/proc/%d/root", p.PID), Readonly: spec.Root.Readonly}
		text, err := json.Marshal(config)
		if err == nil {
			err = os.MkdirAll(bundle, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600)
		}
		if err != nil {
			return fmt.Errorf("cannot write what hooks read: %w", err)
		}
		state, err := json.Marshal(specs.State{Version: specs.Version, ID: c.ID, Status: specs.StateCreating, Pid: p.PID, Bundle: bundle, Annotations: c.Spec.Annotations})
		if err != nil {
			return err
		}
		for _, name := range []string{"prestart", "createRuntime", "createContainer"} {
			for _, h := range edits.Hooks {
				if h.HookName != name {
					continue
				}
				bound := hookBound
				if h.Timeout != nil && *h.Timeout > 0 {
					bound = time.Duration(*h.Timeout) * time.Second
				}
				if err := runHook(ctx, bound, specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env}, state); err != nil {
					return fmt.Errorf("the hook of a device failed: %s: %w", strings.Join(append([]string{h.Path}, h.Args...), " "), err)
				}
			}
		}
		return nil
	}
}

func runHook(ctx context.Context, bound time.Duration, h specs.Hook, state []byte) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	var said bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = append([]string{}, h.Env...), bytes.NewReader(state), &said, &said
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("it does not end within %v", bound)
	}
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text[max(0, len(text)-500):])
	}
	return err
}
