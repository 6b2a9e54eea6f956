package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Docker is a Docker daemon of our own, with a containerd of its own.
type Docker struct {
	dir      string
	programs string // directory of DockerPrograms
	socket   string
	daemon   *daemon
}

// StartDocker starts dockerd with its data below dir, which must not be on an
// overlay or tmpfs, and returns when it is ready. programs is a directory of all
// DockerPrograms, see Link.
func StartDocker(ctx context.Context, dir, programs string) (*Docker, error) {
	for _, sub := range []string{"data", "exec", "home/cli-plugins"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	d := &Docker{dir: dir, programs: programs, socket: filepath.Join(dir, "docker.sock")}
	for _, plugin := range []string{"docker-buildx", "docker-compose"} {
		if err := os.Symlink(d.program(plugin), filepath.Join(dir, "home/cli-plugins", plugin)); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	// The daemon tells when it is ready, sd_notify(3).
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify.sock"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer notify.Close()
	logFile, err := os.Create(d.logPath())
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command(d.program("dockerd"), "--config-file", config, "--host", "unix://"+d.socket,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "docker.pid"), "--cgroup-parent", "/"+d.cgroup())
	// It finds containerd, and that the shim and runc, by their names.
	cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"),
		"NOTIFY_SOCKET="+notify.LocalAddr().String(), "HOME="+filepath.Join(dir, "home"))
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if d.daemon, err = launch("dockerd", cmd); err != nil {
		return nil, err
	}
	if err := d.daemon.await(ctx, func() error { return waitReady(notify) }); err != nil {
		log, _ := os.ReadFile(d.logPath())
		return nil, errors.Join(fmt.Errorf("%w: %s", err, tail(log)), d.Close())
	}
	return d, nil
}

func waitReady(notify *net.UnixConn) error {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return err
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
	}
}

// Socket is the path at which the daemon listens.
func (d *Docker) Socket() string { return d.socket }

func (d *Docker) logPath() string { return filepath.Join(d.dir, "dockerd.log") }

// cgroup is the name of the cgroup that Docker's containers are in, in each
// hierarchy.
func (d *Docker) cgroup() string { return "peer-" + filepath.Base(d.dir) }

func (d *Docker) program(name string) string { return filepath.Join(d.programs, name) }

func (d *Docker) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.program(program), args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.socket, "DOCKER_CONFIG="+filepath.Join(d.dir, "home"), "HOME="+filepath.Join(d.dir, "home"))
	return cmd
}

// Name implements Side.
func (d *Docker) Name() string { return "Docker" }

// Version implements Side.
func (d *Docker) Version(ctx context.Context) string {
	out, err := Run(d.command(ctx, "docker", "version", "--format", "docker {{.Client.Version}}, API {{.Server.APIVersion}}"))
	if err != nil {
		return err.Error()
	}
	said := []string{strings.TrimSpace(string(out))}
	if out, err = Run(d.command(ctx, "docker-compose", "version", "--short")); err != nil {
		return err.Error()
	}
	said = append(said, "compose "+strings.TrimSpace(string(out)))
	for _, name := range []string{"dockerd", "containerd", "runc"} {
		version, err := builtVersion(d.program(name), sources[name].module)
		if err != nil {
			version = err.Error()
		}
		said = append(said, name+" "+version)
	}
	return strings.Join(said, ", ")
}

// Container implements Side.
func (d *Docker) Container(ctx context.Context, args ...string) *exec.Cmd {
	return d.command(ctx, "docker", args...)
}

// Network implements Side.
func (d *Docker) Network(ctx context.Context, args ...string) *exec.Cmd {
	return d.command(ctx, "docker", append([]string{"network"}, args...)...)
}

// Compose implements Side.
func (d *Docker) Compose(ctx context.Context, file, project string, args ...string) *exec.Cmd {
	return d.command(ctx, "docker-compose", append([]string{"-f", file, "-p", project}, args...)...)
}

// Import implements Side.
func (d *Docker) Import(ctx context.Context, tar, ref string) error {
	_, err := Run(d.command(ctx, "docker", "import", tar, ref))
	return err
}

// Pull implements Side.
func (d *Docker) Pull(ctx context.Context, ref string) *exec.Cmd {
	return d.command(ctx, "docker", "pull", ref)
}

// RemoveImage implements Side.
func (d *Docker) RemoveImage(ctx context.Context, ref string) *exec.Cmd {
	return d.command(ctx, "docker", "rmi", ref)
}

// BuildImage implements Side, with BuildKit.
func (d *Docker) BuildImage(ctx context.Context, dir, ref string) *exec.Cmd {
	return d.command(ctx, "docker", "build", "--tag", ref, dir)
}

// Processes implements Side.
func (d *Docker) Processes() ([]int, error) {
	return processesOf("dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy", "runc")
}

// Close stops the daemon, its containers with it.
func (d *Docker) Close() error {
	return errors.Join(d.daemon.close(), RemoveCgroups(d.cgroup()))
}
