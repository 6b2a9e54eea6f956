package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
)

// traffic is clients that ask a service without a pause.
type traffic struct {
	mu      sync.Mutex
	answers map[string]int
	failed  []string

	stop func() // ends it and waits
}

// startTraffic asks for a page 200 times a second, in new connections and in ones that
// are kept, and besides for one that takes its time.
func startTraffic(t *testing.T, base, page string) *traffic {
	t.Helper()
	fetch(t, base+page)
	ctx, cancel := context.WithCancel(context.Background())
	x := &traffic{answers: map[string]int{}}
	var all sync.WaitGroup
	ask := func(c *http.Client, url string) {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
		if err != nil {
			panic(err)
		}
		body := ""
		resp, err := c.Do(req)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			body = string(b)
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", resp.Status, body)
			}
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if err != nil {
			x.failed = append(x.failed, fmt.Sprintf("%s %v", time.Now().Format("15:04:05.000"), err))
			return
		}
		x.answers[body]++
	}
	fresh := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	kept := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{IdleConnTimeout: 100 * time.Millisecond}}
	clients := []*http.Client{fresh, kept}
	for i := range 2 {
		all.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					all.Go(func() { ask(clients[i], base+page) })
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			ask(fresh, base+"/slow?300ms")
		}
	})
	x.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(x.stop)
	return x
}

// check ends the traffic, of which nothing may have failed, and wants answers of each
// version.
func (x *traffic) check(t *testing.T, versions ...string) {
	t.Helper()
	x.stop()
	n := 0
	for _, k := range x.answers {
		n += k
	}
	t.Logf("%d requests: %v", n, x.answers)
	if len(x.failed) > 0 {
		t.Errorf("%d of %d requests failed: %s", len(x.failed), n, tail(strings.Join(x.failed, "\n")))
	}
	got := slices.Sorted(maps.Keys(x.answers))
	got = slices.DeleteFunc(got, func(s string) bool { return s == "slow" })
	slices.Sort(versions)
	if !slices.Equal(got, versions) {
		t.Errorf("answers of %q, not of %q", got, versions)
	}
}

// version makes a file of a web server of a version on a port, with more attributes.
func (b *box) version(t *testing.T, version int, port, more string) {
	t.Helper()
	b.compose(t, fmt.Sprintf(`
		services:
			web: {image: probe, command: serve 8080, init: true, environment: {V: "%d"}, ports: ["%s:8080"], %s}
	`, version, port, more))
}

func TestRollingUpdate(t *testing.T) {
	b := newBox(t, "probe")
	port := freePort(t)
	file := func(version, healthy, update string) {
		b.compose(t, fmt.Sprintf(`
			services:
				web:
					image: probe
					command: serve 8080
					init: true
					environment: {V: %s, HEALTHY: %s}
					ports: ["%s:8080"]
					healthcheck: {test: [CMD, /probe, get, "http://127.0.0.1:8080/healthy"], interval: 200ms, retries: 2}
					deploy:
						replicas: 2
						update_config: %s
		`, version, healthy, port, update))
	}
	const update = "{order: start-first, failure_action: rollback}"
	file("one", "yes", update)
	b.ok(t, "up", "-d", "--wait")
	url := "http://127.0.0.1:" + port
	ids := func() string {
		var out []string
		for name, id := range b.ids(t) {
			out = append(out, name+" "+id)
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	before := ids()

	clients := startTraffic(t, url, "/env?V")
	file("two", "yes", update)
	b.ok(t, "up", "-d")
	clients.check(t, "one", "two")
	after := ids()
	if after == before || strings.Count(after, "\n") != 1 || !strings.HasPrefix(after, "app-web-1 ") {
		t.Errorf("after the update there are:\n%s", after)
	}
	if got := fetch(t, url+"/env?V"); got != "two" {
		t.Errorf("it answers %q", got)
	}
	if out := b.ok(t, "plan"); !strings.Contains(out, "Nothing to do.") {
		t.Errorf("after it: %s", out)
	}

	// What never gets healthy never gets a request, and nothing has changed.
	clients = startTraffic(t, url, "/env?V")
	file("three", "no", update)
	r := b.fails(t, "up", "-d")
	if r.code != 1 || !strings.Contains(r.stderr, "cannot update service web: container") || !strings.Contains(r.stderr, "is unhealthy") {
		t.Errorf("a bad update: %v", r)
	}
	clients.check(t, "two")
	if ids() != after {
		t.Errorf("after a bad update:\n%s\nand before it:\n%s", ids(), after)
	}

	b.ok(t, "down")
}

// The second container of version two is bad: it finds the mark of the first.
func TestRollingUpdateThatFailsHalfWay(t *testing.T) {
	for _, tt := range []struct{ order, action, versions, says string }{
		{"start-first", "rollback", "one one", "service web is rolled back: it runs as before the update"},
		{"stop-first", "rollback", "one one", "service web is rolled back: it runs as before the update"},
		{"start-first", "pause", "one two", "service web: the update stops here; 1 of 2 containers are new, the others run as before"},
		{"stop-first", "pause", "one two", "service web: the update stops here; 1 of 2 containers are new, the others run as before"},
		{"start-first", "continue", "two two", "the update goes on: cannot update service web: container app-web-2 "},
		{"stop-first", "continue", "two two", "the update goes on: cannot update service web: container app-web-2 "},
	} {
		t.Run(tt.order+" "+tt.action, func(t *testing.T) {
			b := newBox(t, "busybox:latest")
			file := func(version string) {
				b.compose(t, fmt.Sprintf(`
					services:
						web:
							image: busybox
							command: ["sh", "-c", "sleep 1000; true"]
							init: true
							stop_signal: SIGKILL
							environment: {V: %[1]s}
							volumes: [marks:/marks]
							post_start: [{command: [sh, -c, "if mkdir /marks/%[1]s; then touch /good; else rmdir /marks/%[1]s; test %[1]s = two || touch /good; fi"]}]
							healthcheck: {test: [CMD, test, -e, /good], interval: 200ms, retries: 3}
							deploy:
								replicas: 2
								update_config: {order: %[2]s, failure_action: %[3]s}
								rollback_config: {order: %[2]s}
					volumes: {marks: {}}
				`, version, tt.order, tt.action))
			}
			file("one")
			b.ok(t, "up", "-d", "--wait")
			before := b.ids(t)
			file("two")
			r := b.stack(t, "up", "-d")
			if want := map[bool]int{true: 0, false: 1}[tt.action == "continue"]; r.code != want || !strings.Contains(r.stderr, tt.says) {
				t.Errorf("the update ends with %d, not %d, and does not say %q: %v", r.code, want, tt.says, r)
			}
			var versions []string
			for _, name := range []string{"app-web-1", "app-web-2"} {
				c := b.look(t, name)
				if c.State.Status != "running" {
					t.Errorf("%s is %s", name, c.State.Status)
				}
				version := strings.TrimSpace(b.ok(t, "exec", "-T", "--index", name[len(name)-1:], "web", "sh", "-c", "echo $V"))
				versions = append(versions, version)
				if same := c.ID == before[name] || strings.HasPrefix(c.ID, before[name]); same != (version == "one") {
					t.Errorf("%s runs version %s, and is the one from before: %v", name, version, same)
				}
			}
			slices.Sort(versions)
			if got := strings.Join(versions, " "); got != tt.versions {
				t.Errorf("there are %s, not %s", got, tt.versions)
			}
			if now := b.ids(t); len(now) != 2 {
				t.Errorf("there are %v", now)
			}
			b.ok(t, "down", "-v")
		})
	}
	conformance.Works(t, "services.*.deploy.update_config.order", "services.*.deploy.update_config.failure_action", "services.*.deploy.rollback_config.order")
}

// What stands aside is not found by the service's name, not even where the one that it is to
// replace is not healthy either.
func TestRollingUpdateOfTheUnhealthy(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	file := func(version string) {
		b.compose(t, fmt.Sprintf(`
			services:
				ask: {image: probe, command: serve 8080, init: true}
				web:
					image: busybox
					command: ["sh", "-c", "sleep 1000; true"]
					init: true
					stop_signal: SIGKILL
					environment: {V: %s}
					volumes: [marks:/marks]
					healthcheck: {test: [CMD, test, -e, /marks/%[1]s], interval: 100ms, retries: 1000}
					deploy: {update_config: {order: start-first}}
			volumes: {marks: {}}
		`, version))
	}
	addresses := func() []string {
		got := b.lookup(t, "ask", "web").Answers
		slices.Sort(got)
		return got
	}
	file("one")
	b.ok(t, "up", "-d")
	before := addresses()
	if len(before) == 0 {
		t.Fatal("the service is not found")
	}
	file("two")
	up := b.start(t, "up", "-d")
	up.out.until(t, limit, "Started")
	if got := addresses(); !slices.Equal(got, before) {
		t.Errorf("with one aside there are %v, %v before", got, before)
	}
	b.ok(t, "exec", "-T", "web", "touch", "/marks/two")
	if code := up.wait(t, limit); code != 0 {
		t.Errorf("the update ends with %d: %s", code, up.out)
	}
	if got := addresses(); len(got) == 0 || slices.Equal(got, before) {
		t.Errorf("after the update there are %v, %v before", got, before)
	}
	b.ok(t, "down", "-v")
}

// What a failed update brings back is run with the hooks that it had.
func TestRollingBackRunsTheFormerHooks(t *testing.T) {
	b := newBox(t, "busybox:latest")
	file := func(version, hook string) {
		b.compose(t, fmt.Sprintf(`
			services:
				web:
					image: busybox
					command: ["sleep", "1000"]
					init: true
					environment: {V: %s}
					post_start: [{command: [sh, -c, "%s"]}]
					deploy: {update_config: {failure_action: rollback, monitor: 100ms}}
		`, version, hook))
	}
	file("one", "echo one >> /hooks")
	b.ok(t, "up", "-d", "--wait")
	file("two", "echo two >> /hooks; false")
	r := b.fails(t, "up", "-d")
	if !strings.Contains(r.stderr, "service web is rolled back") {
		t.Error(r)
	}
	if got := b.ok(t, "exec", "-T", "web", "cat", "/hooks"); got != "one\none\n" {
		t.Errorf("the hooks that ran in it: %q", got)
	}
	b.ok(t, "down")
}

// What has no network of its own has nothing to hand over, and leaves nothing of it.
func TestRollingUpdateInAnothersNetwork(t *testing.T) {
	b := newBox(t, "probe")
	for _, version := range []string{"1", "2"} {
		b.compose(t, fmt.Sprintf(`
			services:
				net: {image: probe, command: serve 8080, init: true}
				with: {image: probe, command: serve 8081, init: true, network_mode: "service:net", environment: {V: "%[1]s"}, deploy: {update_config: {order: start-first, monitor: 100ms}}}
				none: {image: probe, command: serve 8080, init: true, network_mode: none, environment: {V: "%[1]s"}, deploy: {update_config: {order: start-first, monitor: 100ms}}}
		`, version))
		b.ok(t, "up", "-d")
	}
	if ids := b.ids(t); len(ids) != 3 {
		t.Errorf("there are %v", ids)
	}
	b.ok(t, "down") // what is left is found in the end
}

// A connection that never ends is waited for as long as the file says, but by no down.
func TestDownDuringADrain(t *testing.T) {
	b := newBox(t, "probe")
	port := freePort(t)
	file := func(version int) {
		b.version(t, version, port, "stop_grace_period: 10m, deploy: {update_config: {order: start-first, monitor: 100ms}}")
	}
	file(1)
	b.ok(t, "up", "-d", "--wait")
	fetch(t, "http://127.0.0.1:"+port+"/env?V")
	idle, err := net.Dial("tcp", "127.0.0.1:"+port)
	must(t, err)
	defer idle.Close()
	file(2)
	up := b.start(t, "up", "-d")
	up.out.until(t, limit, "Container app-web-1 Stopping")
	eventually(t, soon, func() error {
		if got := fetch(t, "http://127.0.0.1:"+port+"/env?V"); got != "2" {
			return fmt.Errorf("version %s answers", got)
		}
		return nil
	})
	b.ok(t, "down")
	if code := up.wait(t, limit); code == 0 {
		t.Error("an up that a down interrupted ends with 0")
	}
}

// An update that is cut off anywhere, by the end of its client or of keepers, costs no
// request, and the next one brings it to its end.
func TestRollingUpdateIsCutOff(t *testing.T) {
	b := newBox(t, "probe")
	port := freePort(t)
	file := func(version int) {
		b.version(t, version, port, `stop_grace_period: 2s,
			healthcheck: {test: [CMD, /probe, get, "http://127.0.0.1:8080/healthy"], interval: 100ms, retries: 2},
			deploy: {replicas: 2, update_config: {order: start-first, failure_action: rollback}}`)
	}
	file(0)
	b.ok(t, "up", "-d", "--wait")
	clients := startTraffic(t, "http://127.0.0.1:"+port, "/healthy")
	version := 0
	for _, who := range [][]string{{}, {"supervisor"}, {"supervisor", "guardian", "warden"}} {
		for _, after := range []time.Duration{50, 200, 450} {
			version++
			file(version)
			b.eventuallyKept(t, "app")
			up := b.start(t, "up", "-d")
			select {
			case <-up.done:
			case <-time.After(after * time.Millisecond):
			}
			if len(who) > 0 {
				b.killKeepers(t, "app", who...)
			}
			up.signal(t, syscall.SIGKILL)
			<-up.done
			t.Logf("%s version %d: killed %v after %v ms", time.Now().Format("15:04:05.000"), version, who, int(after))
			r := b.stack(t, "up", "-d", "--wait")
			t.Logf("%s then %v", time.Now().Format("15:04:05.000"), r)
			ids := b.ids(t)
			if len(ids) != 2 || ids["app-web-1"] == "" || ids["app-web-2"] == "" {
				t.Fatalf("killed %v after %v ms: there are %v", who, int(after), ids)
			}
			for _, index := range []string{"1", "2"} {
				if got := b.ok(t, "exec", "-T", "--index", index, "web", "/probe", "get", "http://127.0.0.1:8080/env?V"); strings.TrimSpace(got) != fmt.Sprint(version) {
					t.Fatalf("killed %v after %v ms: container %s is of version %s, not %d", who, int(after), index, got, version)
				}
			}
		}
	}
	clients.check(t, "")
	b.ok(t, "down")
}
