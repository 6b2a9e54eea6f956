package e2e

import (
	"syscall"
	"testing"
	"time"
)

const everything = `
	name: app
	services:
		web:
			image: probe
			command: ["serve", "8080"]
			ports: ["8080", "8081:8080/tcp"]
			networks: [front, back]
			healthcheck: {test: ["CMD", "/probe", "get", "http://127.0.0.1:8080/addr"], interval: 1s}
			restart: always
			init: true
		beside:
			image: probe
			command: ["on-term", "0"]
			network_mode: service:web
		box:
			image: busybox
			command: ["sleep", "infinity"]
			networks: [back]
			volumes: ["data:/data", "/anonymous"]
			tmpfs: ["/scratch"]
			mem_limit: 64m
			depends_on: {web: {condition: service_healthy}}
	networks:
		front:
		back: {internal: true}
	volumes:
		data:
`

func TestNothingIsLeft(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.compose(t, everything)
	clean := snap(t, b)
	up := func(t *testing.T) { t.Helper(); b.ok(t, "up", "--detach", "--wait") }

	t.Run("after down", func(t *testing.T) {
		up(t)
		b.ok(t, "exec", "-d", "box", "sleep", "infinity")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after down of paused containers", func(t *testing.T) {
		up(t)
		b.ok(t, "pause")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after down of stopped containers", func(t *testing.T) {
		up(t)
		b.ok(t, "stop")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after rm --force --stop and down", func(t *testing.T) {
		up(t)
		b.ok(t, "rm", "--force", "--stop", "--volumes")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after run --rm", func(t *testing.T) {
		b.ok(t, "run", "--rm", "--no-deps", "box", "true")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after a foreground up that was interrupted, and down", func(t *testing.T) {
		j := b.start(t, "up")
		b.eventuallyState(t, "app-box-1", "running")
		j.signal(t, syscall.SIGINT)
		j.wait(t, 20*time.Second)
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after an up that was killed half-way, and down", func(t *testing.T) {
		j := b.start(t, "up", "--detach")
		b.eventuallyState(t, "app-web-1", "running")
		j.signal(t, syscall.SIGKILL)
		j.wait(t, 5*time.Second)
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("after create, and down", func(t *testing.T) {
		b.ok(t, "create")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
	t.Run("a stopped project needs no process", func(t *testing.T) {
		up(t)
		b.ok(t, "stop")
		eventually(t, 3*time.Second, func() error {
			return noProcess(t, clean)
		})
		b.ok(t, "start")
		b.eventuallyHealth(t, "app-web-1", "healthy")
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, clean)
	})
}

func TestTwoProjectsDoNotTouchEachOther(t *testing.T) {
	b := newBox(t, "probe")
	one, two := b.in(t, "one"), b.in(t, "two")
	for _, p := range []*box{one, two} {
		p.compose(t, `
			services:
				web:
					image: probe
					command: ["serve", "80"]
					ports: ["80"]
		`)
		p.ok(t, "up", "--detach")
	}
	port := two.hostPort(t, "web", "80")
	one.ok(t, "down")
	t.Run("the other project's container and port go on", func(t *testing.T) {
		if s := b.look(t, "two-web-1").State.Status; s != "running" {
			t.Errorf("it is %s", s)
		}
		fetch(t, "http://127.0.0.1:"+port+"/host")
	})
}
