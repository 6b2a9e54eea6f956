package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestVerbs(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: [serve, "80"], ports: ["8080:80"]}
			box: {image: busybox, command: [sleep, infinity], volumes: ["data:/data"]}
		volumes: {data: {}}
	`)
	b.ok(t, "up", "--detach")

	t.Run("top shows the processes", func(t *testing.T) {
		if out := b.ok(t, "top", "box"); !strings.Contains(out, "sleep infinity") || !strings.Contains(out, "PID") {
			t.Error(out)
		}
	})
	t.Run("stats measures", func(t *testing.T) {
		rows := jsonLines[struct{ Name, MemUsage, PIDs string }](t, b.ok(t, "stats", "--no-stream", "--format", "json"))
		if len(rows) != 2 {
			t.Fatalf("%+v", rows)
		}
		for _, r := range rows {
			if r.MemUsage == "" || strings.HasPrefix(r.MemUsage, "0B") || r.PIDs == "0" || r.PIDs == "" {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("events tells what happens, as it happens", func(t *testing.T) {
		j := b.start(t, "events", "--json")
		// It has begun when an event arrives; which one comes first is not certain.
		eventually(t, 10*time.Second, func() error {
			b.ok(t, "pause", "web")
			b.ok(t, "unpause", "web")
			if !strings.Contains(j.out.String(), "pause") {
				return fmt.Errorf("events wrote %q", j.out)
			}
			return nil
		})
		b.ok(t, "exec", "-T", "box", "true")
		j.out.until(t, 5*time.Second, "exec_start")
		b.ok(t, "restart", "--timeout", "0", "box")
		for _, action := range []string{`"die"`, `"start"`} {
			j.out.until(t, 5*time.Second, action)
		}
		j.signal(t, interruptSignal)
		j.wait(t, 5*time.Second)
	})
	t.Run("config prints the resolved file", func(t *testing.T) {
		if out := b.ok(t, "config"); !strings.Contains(out, "name: app") || !strings.Contains(out, "published: \"8080\"") {
			t.Error(out)
		}
		if out := b.ok(t, "config", "--services"); out != "box\nweb\n" {
			t.Errorf("%q", out)
		}
		var v struct{ Name string }
		must(t, json.Unmarshal([]byte(b.ok(t, "config", "--format", "json")), &v))
		if v.Name != "app" {
			t.Errorf("%+v", v)
		}
	})
	t.Run("ls lists the project, images and volumes what it uses", func(t *testing.T) {
		rows := jsonLines[struct{ Name, Status string }](t, b.ok(t, "ls", "--format", "json"))
		if len(rows) != 1 || rows[0].Name != "app" || rows[0].Status != "running(2)" {
			t.Errorf("%+v", rows)
		}
		if out := b.ok(t, "images"); !strings.Contains(out, "probe") || !strings.Contains(out, "busybox") {
			t.Error(out)
		}
		if out := b.ok(t, "volumes"); !strings.Contains(out, "app_data") {
			t.Error(out)
		}
	})
	t.Run("inspect knows every kind of object", func(t *testing.T) {
		for _, name := range []string{"app-web-1", "app_default", "app_data", "busybox"} {
			var v []map[string]any
			if err := json.Unmarshal([]byte(b.ok(t, "inspect", name)), &v); err != nil || len(v) != 1 {
				t.Errorf("%s: %v", name, err)
			}
		}
		b.fails(t, "inspect", "nothing")
	})
	t.Run("ps tells what is published", func(t *testing.T) {
		if out := b.ok(t, "ps"); !strings.Contains(out, ":8080->80/tcp") {
			t.Error(out)
		}
		if out := b.ok(t, "ps", "--quiet"); len(strings.Fields(out)) != 2 {
			t.Error(out)
		}
		if out := b.ok(t, "ps", "--services", "--status", "running"); out != "box\nweb\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("system info and df answer", func(t *testing.T) {
		b.ok(t, "system", "info")
		b.ok(t, "system", "df")
	})
	t.Run("version and help start quickly", func(t *testing.T) {
		if r := b.stack(t, "version"); r.code != 0 || r.took > time.Second {
			t.Error(r)
		}
	})
	t.Run("an unknown verb or flag is named", func(t *testing.T) {
		if r := b.fails(t, "upp"); !strings.Contains(r.stderr, `"up"`) && !strings.Contains(r.stderr, "up") {
			t.Error(r)
		}
		if r := b.fails(t, "up", "--detatch"); !strings.Contains(r.stderr, "--detatch") {
			t.Error(r)
		}
	})
	t.Run("reading verbs work while every process of stack's own is dead", func(t *testing.T) {
		b.killKeepers(t, "app", "warden", "guardian", "supervisor")
		b.ok(t, "ps")
		b.ok(t, "logs")
		b.look(t, "app-web-1")
		b.ok(t, "exec", "-T", "box", "true")
	})
	b.ok(t, "down", "--volumes", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

// What inspect says is in Docker's words: a shared namespace by the container's ID, a
// config as the bind mount that Docker makes, a volume with its mode.
func TestInspectNamesDonorsAndConfigs(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: seen
		services:
			donor: {image: busybox, command: [sleep, infinity], ipc: shareable}
			app:
				image: busybox
				command: [sleep, infinity]
				network_mode: service:donor
				ipc: service:donor
				configs: [{source: c, target: /c}]
				volumes: [/data]
		configs: {c: {content: x}}
	`)
	b.ok(t, "up", "--detach")
	want := "container:" + b.look(t, "seen-donor-1").ID
	for _, field := range []string{"NetworkMode", "IpcMode"} {
		if got := strings.TrimSpace(b.ok(t, "inspect", "--format", "{{.HostConfig."+field+"}}", "seen-app-1")); got != want {
			t.Errorf("%s is %q, not %q", field, got, want)
		}
	}
	image := strings.TrimSpace(b.ok(t, "image", "inspect", "--format", "{{.Id}} {{.Architecture}}", "busybox"))
	if got := strings.TrimSpace(b.ok(t, "inspect", "--format", `{{index .Config.Labels "com.docker.compose.image"}} {{.ImageManifestDescriptor.Platform.Architecture}}`, "seen-app-1")); got != image {
		t.Errorf("the image is %q, not %q", got, image)
	}
	got := b.ok(t, "inspect", "--format", "{{range .Mounts}}{{.Type}} {{.Destination}} {{.Mode}} {{.RW}} {{.Propagation}};{{end}}", "seen-app-1")
	if want := "bind /c  false rprivate;volume /data z true ;\n"; got != want {
		t.Errorf("the mounts are %q, not %q", got, want)
	}
}
