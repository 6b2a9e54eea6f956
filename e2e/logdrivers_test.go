package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/conformance"
	"github.com/stack-run/stack/e2e/receiver"
)

// serve has lines taken until the test ends.
func serve(t *testing.T, network, address string, to *receiver.Lines, read receiver.Protocol) *receiver.Server {
	t.Helper()
	s, err := receiver.Listen(network, address, to, read)
	must(t, err)
	t.Cleanup(s.Kill)
	return s
}

func untilHas(t *testing.T, x *receiver.Lines, part string) []string {
	t.Helper()
	lines, err := x.UntilHas(part)
	must(t, err)
	return lines
}

// datagrams takes each datagram as a line.
func datagrams(t *testing.T, network, address string, to *receiver.Lines) string {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			to.Take(string(b[:n]))
		}
	}()
	return c.LocalAddr().String()
}

// Each driver has its receiver get what the services print, under the tag that was asked
// for, and "logs" shows it as well.
func TestLogDrivers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	sockets := t.TempDir()
	got := map[string]*receiver.Lines{}
	for _, name := range []string{"tcp", "udp", "unix", "unixgram", "fluentd", "fluentunix", "gelfudp", "gelftcp"} {
		got[name] = receiver.New()
	}
	at := func(name string) string { return filepath.Join(sockets, name) }
	tcp := serve(t, "tcp", "127.0.0.1:0", got["tcp"], receiver.Syslog).Address()
	udp := datagrams(t, "udp", "127.0.0.1:0", got["udp"])
	serve(t, "unix", at("unix"), got["unix"], receiver.Syslog)
	datagrams(t, "unixgram", at("unixgram"), got["unixgram"])
	fluentd := serve(t, "tcp", "127.0.0.1:0", got["fluentd"], receiver.Forward).Address()
	serve(t, "unix", at("fluent"), got["fluentunix"], receiver.Forward)
	gelfUDP := datagrams(t, "udp", "127.0.0.1:0", got["gelfudp"])
	gelfTCP := serve(t, "tcp", "127.0.0.1:0", got["gelftcp"], receiver.GELF).Address()
	before := snap(t, b)
	b.compose(t, fmt.Sprintf(`
		name: app
		x-web: &web
			image: busybox
			command: [sh, -c, 'echo "hello of $$HOSTNAME"; echo bad >&2; exec sleep infinity']
			labels: {team: blue}
		services:
			tcp: {<<: *web, hostname: tcp, logging: {driver: syslog, options: {syslog-address: "tcp://%s", tag: "{{.Name}}", syslog-format: rfc5424}}}
			udp: {<<: *web, hostname: udp, logging: {driver: syslog, options: {syslog-address: "udp://%s", tag: "{{.Name}}", syslog-facility: local1}}}
			unix: {<<: *web, hostname: unix, logging: {driver: syslog, options: {syslog-address: "unix://%s", tag: "{{.Name}}"}}}
			unixgram: {<<: *web, hostname: unixgram, logging: {driver: syslog, options: {syslog-address: "unixgram://%s", tag: "{{.Name}}"}}}
			fluentd: {<<: *web, hostname: fluentd, logging: {driver: fluentd, options: {fluentd-address: "%s", tag: "docker.{{.Name}}", fluentd-async: "true"}}}
			fluentunix: {<<: *web, hostname: fluentunix, logging: {driver: fluentd, options: {fluentd-address: "unix://%s", tag: "docker.{{.Name}}", fluentd-request-ack: "true"}}}
			gelfudp: {<<: *web, hostname: gelfudp, logging: {driver: gelf, options: {gelf-address: "udp://%s", tag: "{{.Name}}", gelf-compression-type: none, labels: team}}}
			gelftcp: {<<: *web, hostname: gelftcp, logging: {driver: gelf, options: {gelf-address: "tcp://%s", tag: "{{.Name}}", labels: team}}}
	`, tcp, udp, at("unix"), at("unixgram"), fluentd, at("fluent"), gelfUDP, gelfTCP))
	if r := b.stack(t, "up", "--detach"); r.code != 0 || strings.Contains(r.stderr, "no effect") || strings.Contains(r.stderr, "cannot send") {
		t.Fatal(r)
	}
	for name, lines := range got {
		hello := untilHas(t, lines, "hello of "+name)
		untilHas(t, lines, "bad")
		if !strings.Contains(hello[0], "app-"+name+"-1") {
			t.Errorf("%s: %q has no tag", name, hello[0])
		}
		b.eventuallyLog(t, name, "hello of "+name)
	}
	for name, want := range map[string][2]string{
		"tcp": {"<30>1 ", "<27>1 "}, "udp": {"<142>", "<139>"}, "unix": {"<30>", "<27>"}, "unixgram": {"<30>", "<27>"}, "fluentd": {" stdout ", " stderr "}, "fluentunix": {" stdout ", " stderr "},
		"gelfudp": {`"level":6`, `"level":3`}, "gelftcp": {`"_team":"blue"`, `"level":3`},
	} {
		for _, part := range want {
			if got[name].Count(part) == 0 {
				t.Errorf("%s: nothing has %s: %q", name, part, got[name].All())
			}
		}
	}
	conformance.Works(t, "services.*.logging", "services.*.logging.driver", "services.*.logging.options", "services.*.logging.options.*")
	if driver := b.look(t, "app-tcp-1").HostConfig["LogConfig"].(map[string]any)["Type"]; driver != "syslog" {
		t.Errorf("inspect tells of driver %v", driver)
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, before)
}

// counting prints "number N." for each number below another.
func counting(below int) string {
	return fmt.Sprintf(`[awk, 'BEGIN { for (i = 0; i < %d; i++) print "number " i "." }']`, below)
}

// The receiver and the supervisor die while a container prints. The log here has all; a
// receiver that acknowledges has all, too, and others all but what died with them.
func TestLogReceiverDies(t *testing.T) {
	const n = 100_000
	for _, c := range []struct {
		name, network, driver, options string
		read                           receiver.Protocol
		lossless                       bool
	}{
		{"fluentd", "tcp", "fluentd", `fluentd-address: "tcp://%s", fluentd-request-ack: "true"`, receiver.Forward, true},
		{"syslog", "tcp", "syslog", `syslog-address: "tcp://%s"`, receiver.Syslog, false},
		{"gelf", "tcp", "gelf", `gelf-address: "tcp://%s"`, receiver.GELF, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, "busybox:latest")
			lines := receiver.New()
			srv := serve(t, c.network, "127.0.0.1:0", lines, c.read)
			address := srv.Address()
			before := snap(t, b)
			b.compose(t, fmt.Sprintf(`
				name: app
				services:
					many:
						image: busybox
						command: %s
						restart: "no"
						logging: {driver: %s, options: {%s}}
					still: {image: busybox, command: [sleep, infinity]}
			`, counting(n), c.driver, fmt.Sprintf(c.options, address)))
			b.ok(t, "up", "--detach")
			for k := range 3 {
				_, err := lines.Until(func(l []string) bool { return len(l) > (k+1)*n/6 })
				must(t, err)
				srv.Kill()
				b.killKeepers(t, "app", "supervisor")
				srv = serve(t, c.network, address, lines, c.read)
			}
			all := untilHas(t, lines, fmt.Sprintf("number %d.", n-1))
			again, lost, err := receiver.Numbered(all, n)
			must(t, err)
			t.Logf("of %d lines %d came twice and %d never", n, again, lost)
			if c.lossless && lost > 0 || lost > n/2 {
				t.Errorf("%d lines were lost", lost)
			}
			b.eventuallyState(t, "app-many-1", "exited")
			if again, lost, err := receiver.Numbered(b.logLines(t, "many"), n); err != nil || again+lost > 0 {
				t.Errorf("the log here: %d lines twice, %d never, %v", again, lost, err)
			}
			b.ok(t, "down", "--timeout", "0")
			b.nothingLeft(t, before)
		})
	}
}

// With a receiver that is alive, killed supervisors cost no line, and hardly double one.
func TestLogDeliverySurvivesTheSupervisor(t *testing.T) {
	const n = 100_000
	b := newBox(t, "busybox:latest")
	lines := receiver.New()
	srv := serve(t, "tcp", "127.0.0.1:0", lines, receiver.Syslog)
	before := snap(t, b)
	b.compose(t, fmt.Sprintf(`
		name: app
		services:
			many: {image: busybox, command: %s, logging: {driver: syslog, options: {syslog-address: "tcp://%s"}}}
			still: {image: busybox, command: [sleep, infinity]}
	`, counting(n), srv.Address()))
	b.ok(t, "up", "--detach")
	const kills = 4
	for k := range kills {
		_, err := lines.Until(func(l []string) bool { return len(l) > (k+1)*n/6 })
		must(t, err)
		b.killKeepers(t, "app", "supervisor")
	}
	all := untilHas(t, lines, fmt.Sprintf("number %d.", n-1))
	again, lost, err := receiver.Numbered(all, n)
	must(t, err)
	t.Logf("of %d lines %d came twice", n, again)
	if most := kills * (64 << 10) / len("<30>Jan  2 03:04:05 0123456789ab[1234]: number 1."); lost > 0 || again > most {
		t.Errorf("%d lines never came, and %d twice, at most %d may", lost, again, most)
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, before)
}

// A receiver that is not there: the user is told, the container runs, its log is kept
// here, and what has waited is sent when it comes, to the end of the container's life.
func TestLogReceiverIsNotThere(t *testing.T) {
	b := newBox(t, "busybox:latest")
	socket := filepath.Join(t.TempDir(), "s")
	b.compose(t, fmt.Sprintf(`
		name: app
		services:
			web: {image: busybox, command: [sh, -c, "echo hello; exec sleep infinity"], logging: {driver: syslog, options: {syslog-address: "unix://%s"}}}
	`, socket))
	b.ok(t, "up", "--detach")
	b.eventuallyLog(t, "web", "hello")
	eventually(t, 20*time.Second, func() error {
		text, err := os.ReadFile(filepath.Join(b.runRoot(), "projects", "app", "supervisor.log"))
		if err != nil {
			return err
		}
		return count(string(text), "cannot send the log of container app-web-1 to syslog at unix:"+socket, 1)
	})
	lines := receiver.New()
	srv := serve(t, "unix", socket, lines, receiver.Syslog)
	untilHas(t, lines, "hello")
	srv.Kill()
	b.ok(t, "restart", "--timeout", "0", "web")
	b.eventuallyState(t, "app-web-1", "running")
	start := time.Now()
	b.ok(t, "down", "--timeout", "0")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("down took %v", took)
	}
	b.nothingLeft(t, b.before)
}

// A single container with --rm: its last line is sent before its log goes.
func TestLogDriverOfASingleContainer(t *testing.T) {
	b := newBox(t, "busybox:latest")
	lines := receiver.New()
	srv := serve(t, "tcp", "127.0.0.1:0", lines, receiver.Forward)
	r := b.stack(t, "container", "run", "--rm", "--log-driver", "fluentd", "--log-opt", "fluentd-address="+srv.Address(), "--log-opt", "tag=run", "busybox", "echo", "hello")
	if r.code != 0 || r.stdout != "hello\n" || r.stderr != "" {
		t.Error(r)
	}
	untilHas(t, lines, "run stdout hello")
	for _, c := range []struct{ args, want string }{
		{"--log-driver syslog --log-opt syslog-facility=x", "syslog-facility"},
		{"--log-driver gelf", "gelf-address"},
		{"--log-opt tag={{.Nmae}}", "Nmae"},
		{"--log-driver sylog", "fluentd"},
	} {
		args := append([]string{"container", "run"}, strings.Fields(c.args)...)
		if r := b.fails(t, append(args, "busybox", "true")...); r.code != 125 || !strings.Contains(r.stderr, c.want) {
			t.Error(r)
		}
	}
	if r := b.stack(t, "container", "run", "--rm", "--log-driver", "awslogs", "busybox", "echo", "hi"); r.code != 0 || !strings.Contains(r.stderr, "Fluent Bit") {
		t.Error(r)
	}
}

// Wrong options are errors with file, line and path, and nothing is made.
func TestWrongLogOptions(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web:
				image: busybox
				logging:
					driver: syslog
					options:
						syslog-address: "http://host"
						syslog-format: rfc1
						made-up: "1"
			tls:
				image: busybox
				logging: {driver: syslog, options: {syslog-address: "tcp+tls://host", syslog-tls-ca-cert: /missing/ca.pem}}
	`)
	r := b.fails(t, "up", "--detach")
	for _, want := range []string{
		"compose.yaml:8: services.web.logging.options.syslog-address: ", "compose.yaml:9: services.web.logging.options.syslog-format: ", "compose.yaml:10: services.web.logging.options.made-up: ",
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("%q is not told: %s", want, r.stderr)
		}
	}
	if r := b.fails(t, "up", "--detach", "tls"); !strings.Contains(r.stderr, "/missing/ca.pem") {
		t.Error(r)
	}
	if list := b.ps(t); len(list) > 0 {
		t.Errorf("%v", list)
	}
}

// systemd-journald itself takes the lines, with Docker's fields.
func TestJournald(t *testing.T) {
	const program = "/lib/systemd/systemd-journald"
	if _, err := os.Stat(program); err != nil {
		t.Skipf("there is no %s", program)
	}
	b := newBox(t, "busybox:latest")
	for _, dir := range []string{"/run/systemd/journal", "/run/log/journal"} {
		for made := dir; ; made = filepath.Dir(made) { // what is not there goes again
			if _, err := os.Stat(made); err == nil {
				break
			}
			t.Cleanup(func() { os.Remove(made) })
		}
		must(t, os.MkdirAll(dir, 0o755))
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
		t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	journald := exec.CommandContext(ctx, program)
	must(t, journald.Start())
	t.Cleanup(func() {
		cancel()
		journald.Wait()
	})
	eventually(t, 20*time.Second, func() error { // all that it listens at
		for _, name := range []string{"socket", "stdout", "io.systemd.journal"} {
			if _, err := os.Stat("/run/systemd/journal/" + name); err != nil {
				return err
			}
		}
		return nil
	})
	before := snap(t, b)
	b.compose(t, `
		name: app
		services:
			web:
				image: busybox
				command: [sh, -c, "echo hello; echo bad >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; exec sleep infinity"]
				labels: {com.example.team: blue}
				environment: {MODE: fast}
				logging: {driver: journald, options: {tag: "{{.ImageName}}/{{.Name}}", labels: com.example.team, env: MODE}}
	`)
	b.ok(t, "up", "--detach")
	id := b.look(t, "app-web-1").ID
	// With --output=json a message that is long is left out, unless --all.
	var entries []map[string]any
	eventually(t, 30*time.Second, func() error {
		out, err := exec.Command("journalctl", "--directory", "/run/log/journal", "--output", "json", "--all", "CONTAINER_NAME=app-web-1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		entries = nil
		for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
			var e map[string]any
			if err := d.Decode(&e); err != nil {
				return err
			}
			entries = append(entries, e)
		}
		if len(entries) != 4 {
			return fmt.Errorf("%d entries, not 4: %s", len(entries), out)
		}
		return nil
	})
	pieces := 0
	for _, e := range entries {
		for name, want := range map[string]string{
			"CONTAINER_ID": id[:12], "CONTAINER_ID_FULL": id, "CONTAINER_TAG": "busybox/app-web-1", "SYSLOG_IDENTIFIER": "busybox/app-web-1", "IMAGE_NAME": "busybox",
			"COM_EXAMPLE_TEAM": "blue", "MODE": "fast", "PRIORITY": map[bool]string{true: "3", false: "6"}[e["MESSAGE"] == "bad"],
		} {
			if e[name] != want {
				t.Errorf("%v: %s is %v, want %s", cmp.Or(fmt.Sprint(e["MESSAGE"])[:3]), name, e[name], want)
			}
		}
		if e["CONTAINER_PARTIAL_MESSAGE"] == "true" || e["CONTAINER_PARTIAL_LAST"] == "true" {
			pieces++
		}
	}
	if pieces != 2 {
		t.Errorf("%d pieces of the long line, want 2", pieces)
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, before)
}

// Complete parts of a log are compressed, and read like the rest.
func TestCompressedLogs(t *testing.T) {
	const n = 100_000
	b := newBox(t, "busybox:latest")
	b.compose(t, fmt.Sprintf(`
		name: app
		services:
			many: {image: busybox, command: %s, logging: {driver: json-file, options: {compress: "true", max-size: 100k, max-file: "100"}}}
			still: {image: busybox, command: [sleep, infinity]}
	`, counting(n)))
	if r := b.stack(t, "up", "--detach"); r.code != 0 || strings.Contains(r.stderr, "compress") {
		t.Fatal(r)
	}
	b.eventuallyState(t, "app-many-1", "exited")
	b.ok(t, "restart", "--timeout", "0", "many")
	b.eventuallyState(t, "app-many-1", "exited")
	lines := b.logLines(t, "many")
	if again, lost, err := receiver.Numbered(lines, n); err != nil || lost > 0 || again != n {
		t.Errorf("of two times %d lines %d came twice, %d never, %v", n, again, lost, err)
	}
	dir := filepath.Join(b.dataRoot(), "logs", b.look(t, "app-many-1").ID)
	packed, err := filepath.Glob(filepath.Join(dir, "*.out.gz"))
	if must(t, err); len(packed) < 5 || diskUse(t, dir) > 2_000_000 {
		t.Errorf("%d parts are compressed, all takes %d bytes", len(packed), diskUse(t, dir))
	}
	if out := b.ok(t, "logs", "--no-log-prefix", "--tail", "1", "many"); out != fmt.Sprintf("number %d.\n", n-1) {
		t.Errorf("%q", out)
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}
