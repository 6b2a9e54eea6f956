package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/machine"
)

const trio = `
	name: app
	services:
		a: {image: probe, command: ["on-term", "0"], networks: [front], volumes: ["data:/data"]}
		b: {image: probe, command: ["on-term", "0"], networks: [front, back], depends_on: [a]}
		c: {image: probe, command: ["serve", "80"], networks: [back], ports: ["80"], depends_on: [b]}
	networks: {front: {}, back: {}}
	volumes: {data: {}}
`

// atOnce runs commands at the same time.
func (b *box) atOnce(t *testing.T, commands ...string) []result {
	t.Helper()
	out := make([]result, len(commands))
	var wg sync.WaitGroup
	for i, c := range commands {
		wg.Go(func() { out[i] = b.stack(t, strings.Fields(c)...) })
	}
	wg.Wait()
	return out
}

func TestManyCommandsAtOnce(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, trio)

	allUp := func(t *testing.T) {
		t.Helper()
		rows := b.ps(t)
		if len(rows) != 3 {
			t.Fatalf("there are %d containers: %+v", len(rows), rows)
		}
		for _, r := range rows {
			if i := b.look(t, r.Name); i.State.Status != "running" {
				t.Errorf("%s is %s", r.Name, i.State.Status)
			} else if p, err := machine.ReadProc(i.State.Pid); err != nil || !p.Alive() {
				t.Errorf("%s says it runs as %d, which does not: %v", r.Name, i.State.Pid, err)
			}
		}
		fetch(t, "http://127.0.0.1:"+b.hostPort(t, "c", "80")+"/host")
	}
	t.Run("two ups make one project", func(t *testing.T) {
		for _, r := range b.atOnce(t, "up -d", "up -d") {
			if r.code != 0 {
				t.Error(r)
			}
		}
		allUp(t)
	})
	t.Run("ten commands leave a consistent project", func(t *testing.T) {
		for _, r := range b.atOnce(t, "up -d", "ps -a", "restart -t 0 a", "stop -t 0 b", "start b",
			"up -d --force-recreate a", "logs", "kill c", "exec -T a /probe dial tcp 127.0.0.1:1", "up -d --scale b=2") {
			// Some must fail: an exec meets a container that is just gone. None may
			// report a broken record or a bug.
			for _, word := range []string{"panic", "internal error", "unexpected end of JSON", "goroutine "} {
				if strings.Contains(r.stderr, word) {
					t.Error(r)
				}
			}
		}
		b.ok(t, "up", "--detach", "--wait")
		allUp(t)
	})
	t.Run("up and down at once end in all or nothing", func(t *testing.T) {
		b.atOnce(t, "up -d", "down -t 0", "up -d", "down -t 0")
		switch n := len(b.ps(t)); n {
		case 0:
		case 3:
			b.ok(t, "up", "--detach", "--wait")
			allUp(t)
		default:
			t.Errorf("%d containers are left", n)
		}
	})
	t.Run("nothing is left afterwards", func(t *testing.T) {
		b.ok(t, "down", "--volumes")
		b.nothingLeft(t, b.before)
	})
}

func TestManyProjectsAtOnce(t *testing.T) {
	b := newBox(t, "probe")
	const n = 8
	boxes := make([]*box, n)
	for i := range n {
		boxes[i] = b.in(t, fmt.Sprintf("p%d", i))
		boxes[i].write(t, "compose.yaml", strings.ReplaceAll(unindent(trio), "name: app", fmt.Sprintf("name: p%d", i)))
	}
	each := func(t *testing.T, args ...string) {
		t.Helper()
		var wg sync.WaitGroup
		for _, p := range boxes {
			wg.Go(func() {
				if r := p.stack(t, args...); r.code != 0 {
					t.Error(r)
				}
			})
		}
		wg.Wait()
	}
	each(t, "up", "--detach", "--wait")
	subnets := map[string]string{}
	for i, p := range boxes {
		ip := p.look(t, fmt.Sprintf("p%d-a-1", i)).ip(t, "")
		if other, ok := subnets[ip]; ok {
			t.Errorf("%s and p%d have the same address %s", other, i, ip)
		}
		subnets[ip] = fmt.Sprintf("p%d", i)
		fetch(t, "http://127.0.0.1:"+p.hostPort(t, "c", "80")+"/host")
	}
	each(t, "down", "--volumes", "--timeout", "2")
	b.nothingLeft(t, b.before)
}

func TestDownEndsAnUp(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			never:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: ["CMD", "false"], start_period: 10m}
			web:
				image: busybox
				command: [sleep, infinity]
				init: true
				depends_on: {never: {condition: service_healthy}}
	`)
	up := b.start(t, "up", "--detach")
	up.out.until(t, 10*time.Second, "Waiting")
	began := time.Now()
	b.ok(t, "down")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("down took %v", took)
	}
	if code := up.wait(t, 5*time.Second); code == 0 {
		t.Errorf("up ended with 0: %s", up.out)
	}
	b.nothingLeft(t, b.before)
}
