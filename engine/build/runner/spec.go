package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerdoci "github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build"
)

// defaultHostname is the name of a host that runs build commands, as BuildKit
// has it: it must not differ from build to build.
const defaultHostname = "buildkitsandbox"

// spec compiles what is to run. BuildKit's own generator knows what a Dockerfile
// may ask for; what the engine does differently is changed afterwards.
func (r *Runner) spec(ctx context.Context, id string, b *bundle, n *namespace, mounts []executor.Mount, meta executor.Meta) (_ *specs.Spec, release func(), err error) {
	hosts, err := b.write("hosts", hostsFile(meta.Hostname, meta.ExtraHosts, n.gateway()))
	if err != nil {
		return nil, nil, err
	}
	resolv, err := b.write("resolv.conf", n.resolvConf())
	if err != nil {
		return nil, nil, err
	}
	uid, gid, groups, err := oci.GetUser(b.root, meta.User)
	if err != nil {
		return nil, nil, err
	}
	opts := []containerdoci.SpecOpts{oci.WithUIDGID(uid, gid, groups)}
	spec, release, err := oci.GenerateSpec(ctx, meta, b.sources(mounts), id, resolv, hosts, n, "", oci.ProcessSandbox, nil, "", false, "", nil, opts...)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	spec.Process.Terminal = meta.Tty
	spec.Process.Env = withHome(spec.Process.Env, b.root, uid)
	spec.Linux.CgroupsPath = filepath.Join(r.cgroupParent(), id)
	if meta.CgroupParent != "" {
		spec.Linux.CgroupsPath = filepath.Join("/", meta.CgroupParent, id)
	}
	if err := b.makeDir(meta.Cwd, uid, gid); err != nil {
		return nil, nil, err
	}
	if err := b.mountOverlays(spec); err != nil {
		return nil, nil, err
	}
	adapt(spec, meta.SecurityMode)
	b.confine(spec)
	return spec, release, nil
}

// withHome adds the user's home directory where the environment has none, "/"
// for a user that the image does not know, as runc does.
func withHome(env []string, root string, uid uint32) []string {
	if slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		return env
	}
	home := "/"
	if passwd, err := fs.RootPath(root, "/etc/passwd"); err == nil {
		found, err := user.ParsePasswdFileFilter(passwd, func(u user.User) bool { return u.Uid == int(uid) })
		if err == nil && len(found) > 0 && found[0].Home != "" {
			home = found[0].Home
		}
	}
	return append(env, "HOME="+home)
}

// mountOverlays mounts overlays in the bundle and has the container bind them:
// the file system's options would be too long for fsconfig(2).
func (b *bundle) mountOverlays(spec *specs.Spec) error {
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if m.Type != "overlay" {
			continue
		}
		dir, err := b.mount(fmt.Sprintf("mount-%d", i), overlay(*m))
		if err != nil {
			return err
		}
		options := []string{"rbind"}
		if slices.Contains(m.Options, "ro") {
			options = append(options, "ro")
		}
		m.Type, m.Source, m.Options = "bind", dir, options
	}
	return nil
}

// makeDir makes the working directory, owned by the user, if it is missing.
func (b *bundle) makeDir(cwd string, uid, gid uint32) error {
	dir, err := fs.RootPath(b.root, cwd)
	if err != nil {
		return fmt.Errorf("cannot use the working directory %s: %w", cwd, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err = b.asRoot(func() error {
		ids, err := b.hostIDs(uid, gid)
		if err != nil {
			return err
		}
		return user.MkdirAllAndChown(dir, 0o755, ids[0], ids[1])
	})
	if err != nil {
		return fmt.Errorf("cannot make the working directory %s: %w", cwd, err)
	}
	return nil
}

// adapt changes what the engine has different from containerd.
func adapt(spec *specs.Spec, mode pb.SecurityMode) {
	if !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace }) {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	spec.Process.Capabilities = capabilitiesOf(spec.Process)
	if mode == pb.SecurityMode_INSECURE {
		return
	}
	// containerd leaves the list of harmless devices to runc.
	spec.Linux.Resources.Devices = engine.DeviceRules(false, nil)
	spec.Linux.MaskedPaths = engine.MaskedPaths()
}

// capabilitiesOf gives a user other than root no permitted capabilities, which is
// what execve(2) would make of them anyway, and root no ambient ones.
func capabilitiesOf(p *specs.Process) *specs.LinuxCapabilities {
	if p.Capabilities == nil {
		return nil
	}
	c := &specs.LinuxCapabilities{Bounding: p.Capabilities.Bounding}
	if p.User.UID == 0 {
		c.Effective, c.Permitted = c.Bounding, c.Bounding
	}
	return c
}

// hostsFile is /etc/hosts, as BuildKit writes it. The address build.HostGateway
// stands for that of the host on the container's network.
func hostsFile(hostname string, extra []executor.HostIP, gateway string) []byte {
	if hostname == "" {
		hostname = defaultHostname
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		ip := h.IP.String()
		if ip == build.HostGateway && gateway != "" {
			ip = gateway
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, strings.TrimSpace(h.Host))
	}
	return b.Bytes()
}
