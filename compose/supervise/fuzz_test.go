package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// shop is a project of two services.
func shop() *spec.Desired {
	service := func(name, image string, change func(*container.Spec)) *desired.Service {
		sp := container.Spec{
			Name: "shop-" + name + "-1", Image: image, ImageID: "sha256:1",
			Labels:  map[string]string{desired.LabelProject: "shop", desired.LabelService: name, desired.LabelContainerNumber: "1"},
			Process: container.Process{Command: []string{name}, Env: []string{"A=b"}},
			Network: netns.EndpointSpec{Networks: []netns.Attachment{{Network: "shop_default"}}},
		}
		change(&sp)
		return &desired.Service{Name: name, Replicas: []desired.Replica{{Index: 1, Spec: sp, Hash: desired.Hash(&sp)}}}
	}
	d := &spec.Desired{
		Version: spec.Version, Project: "shop", WorkingDir: "/src",
		Services: map[string]*desired.Service{
			"web": service("web", "web:1", func(sp *container.Spec) {
				sp.Network.Ports = []endpoint.Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}
			}),
			"db": service("db", "pg:1", func(sp *container.Spec) {
				sp.Mounts = []volume.Mount{{Type: volume.TypeVolume, Source: "shop_data", Target: "/data"}}
			}),
		},
		Networks: map[string]*desired.Network{"default": {Spec: endpoint.NetworkSpec{Name: "shop_default", Project: "shop", Key: "default", Driver: "bridge"}}},
		Volumes:  map[string]*desired.Volume{"data": {Spec: volume.Spec{Name: "shop_data", Project: "shop", Key: "data", Driver: "local"}}},
	}
	d.Services["web"].DependsOn = map[string]desired.Dependency{"db": {Condition: plan.Healthy, Required: true, Restart: true}}
	return d
}

// shopRuns is what is observed where shop is up, with another environment.
func shopRuns() plan.Observed {
	o := plan.Observed{
		Project:  "shop",
		Networks: []endpoint.Network{{NetworkSpec: endpoint.NetworkSpec{Name: "shop_default", Project: "shop", Key: "default", Driver: "bridge"}}},
		Volumes:  []volume.Volume{{Spec: volume.Spec{Name: "shop_data", Project: "shop", Key: "data", Driver: "local"}}},
	}
	for name, s := range shop().Services {
		sp := s.Replicas[0].Spec
		sp.Process.Env = []string{"A=c"}
		o.Containers = append(o.Containers, plan.Container{
			ID: strings.Repeat(name[:1], 64), Name: sp.Name, Service: name, Index: 1, Hash: desired.Hash(&sp), ImageID: sp.ImageID, Phase: container.Running, Spec: &sp,
		})
	}
	slices.SortFunc(o.Containers, func(a, b plan.Container) int { return strings.Compare(a.ID, b.ID) })
	return o
}

// idle carries out nothing.
type idle struct{ made atomic.Int32 }

func (*idle) CreateNetwork(context.Context, *plan.Op) error { return nil }
func (*idle) RemoveNetwork(context.Context, *plan.Op) error { return nil }
func (*idle) CreateVolume(context.Context, *plan.Op) error  { return nil }
func (*idle) RemoveVolume(context.Context, *plan.Op) error  { return nil }
func (h *idle) CreateContainer(context.Context, *plan.Op) (string, error) {
	return strings.Repeat("e", int(h.made.Add(1))), nil
}
func (*idle) ScheduleJob(context.Context, *plan.Op) error                 { return nil }
func (*idle) UnscheduleJob(context.Context, *plan.Op) error               { return nil }
func (*idle) StartContainer(context.Context, string, *plan.Op) error      { return nil }
func (*idle) StopContainer(context.Context, string, *plan.Op, bool) error { return nil }
func (*idle) KillContainer(context.Context, string, *plan.Op) error       { return nil }
func (*idle) PauseContainer(context.Context, string, *plan.Op) error      { return nil }
func (*idle) UnpauseContainer(context.Context, string, *plan.Op) error    { return nil }
func (*idle) RemoveContainer(context.Context, string, *plan.Op) error     { return nil }
func (*idle) HandOver(context.Context, string, *plan.Op) error            { return nil }
func (*idle) Await(context.Context, *plan.Op) error                       { return errors.New("it never comes about") }
func (*idle) RenameContainer(context.Context, string, *plan.Op) error     { return nil }

// processTime is the time on a CPU that this process has used, which does not depend
// on what else runs on the machine.
func processTime(t *testing.T) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// FuzzRequest sends a supervisor any body for any verb. What would touch the machine is
// decided and then carried out by nobody; all else is done to a container that there is
// nothing of. Each request has one whole answer, which is no fault of the program, and
// the next request is answered, too.
func FuzzRequest(f *testing.F) {
	verbs := []string{"ping", "apply", "create", "run", "wait", "fd", "exec", "handover", "rename", "update", "connect", "none", "rest"}
	seed := func(verb string, body any) {
		data, err := json.Marshal(body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(slices.Index(verbs, verb)), data)
	}
	id := strings.Repeat("a", 64)
	for _, verb := range []plan.Verb{
		plan.VerbUp, plan.VerbCreate, plan.VerbScale, plan.VerbDown, plan.VerbStart, plan.VerbStop, plan.VerbRestart,
		plan.VerbKill, plan.VerbPause, plan.VerbUnpause, plan.VerbRemove, plan.VerbResume,
	} {
		seed("apply", ApplyRequest{Project: "shop", Request: plan.Request{Verb: verb, Desired: shop(), Services: []string{"web"}, Wait: true, Force: true, RemoveOrphans: true}})
		seed("apply", ApplyRequest{Project: "shop", Request: plan.Request{Verb: verb, Containers: []string{strings.Repeat("w", 64)}, Volumes: true, Whole: true}, Parallel: 1})
	}
	seed("create", CreateRequest{Project: "shop", Spec: shop().Services["web"].Replicas[0].Spec, Service: "web", Desired: shop()})
	seed("create", CreateRequest{Project: "single.x", Spec: engine.Spec{Name: "x"}})
	seed("run", RunRequest{ID: id, Wait: true, Rows: 1, Columns: 1})
	seed("wait", ContainerRequest{ID: id})
	seed("fd", FDRequest{ID: id, Name: "tty", Close: true})
	seed("exec", ExecRequest{ID: id, Process: engine.Process{Command: []string{"x"}}})
	seed("handover", HandOverRequest{Program: "/proc/1/exe"})
	seed("rename", RenameRequest{ID: id, Name: "other"})
	seed("update", UpdateRequest{ID: id, Restart: engine.Restart{Policy: "always"}})
	seed("rest", RestRequest{IDs: []string{id}})
	seed("connect", ConnectRequest{ID: id, Attachment: netns.Attachment{Network: "n"}})
	for i := range verbs {
		f.Add(uint8(i), []byte("null"))
		f.Add(uint8(i), []byte("{}"))
		f.Add(uint8(i), []byte(`{"id":"`+id+`"}`))
		f.Add(uint8(i), []byte(strings.Repeat("[", 20000)))
	}
	dir := f.TempDir()
	e, err := engine.Open(engine.Options{DataRoot: dir + "/data", RunRoot: dir + "/run", Warn: func(string) {}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, number uint8, body []byte) {
		verb := verbs[int(number)%len(verbs)]
		s, _ := supervised(t, &fakeRunner{lives: time.Millisecond}, engine.Spec{})
		s.engine, s.dir, s.keeper, s.adopted = e, dir, &Keeper{held: map[string]*os.File{}}, make(chan struct{})
		close(s.adopted)
		handlers := s.handlers()
		decide := func(ctx context.Context, req ApplyRequest, r *reply) (any, error) {
			p, err := plan.Make(req.Request, shopRuns())
			if err != nil {
				return nil, err
			}
			work, waits := apply.Split(p)
			checkOrder(t, work)
			text, err := json.Marshal(p)
			if err != nil {
				t.Errorf("the plan cannot be told: %v", err)
			}
			var again ApplyRequest
			if verb == "apply" && json.Unmarshal(body, &again) == nil {
				q, err := plan.Make(again.Request, shopRuns())
				other, _ := json.Marshal(q)
				if err != nil || string(other) != string(text) {
					t.Errorf("once it means\n%s\nand then\n%s, %v", text, other, err)
				}
			}
			if err := apply.Execute(ctx, work, &idle{}, r.pass, req.Parallel); err != nil {
				return nil, err
			}
			return p, apply.Execute(ctx, waits, &idle{}, r.pass, 0)
		}
		handlers["apply"] = handle(decide)
		handlers["create"] = handle(func(ctx context.Context, req CreateRequest, r *reply) (any, error) {
			return decide(ctx, req.Apply(), r)
		})
		handlers["exec"] = handle(func(_ context.Context, req ExecRequest, _ *reply) (any, error) { return req, nil })
		handlers["rest"] = handle(func(_ context.Context, req RestRequest, _ *reply) (any, error) { return req, nil }) // it ends with who asks
		handlers["handover"] = handle(func(_ context.Context, req HandOverRequest, _ *reply) (any, error) { return req, nil })
		handlers["connect"] = handle(func(_ context.Context, req ConnectRequest, _ *reply) (any, error) { return req, nil })
		routes := s.routes(handlers)
		ask := func(verb string, body string) (int, *Final) {
			w := httptest.NewRecorder()
			// The bound is for what would never end; nothing takes a part of it.
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("no end"))
			defer cancel()
			routes.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/"+verb, strings.NewReader(body)))
			if w.Code != http.StatusOK {
				return w.Code, nil
			}
			final, err := readAnswer(w.Body, nil)
			if err != nil || w.Body.Len() > 0 {
				t.Fatalf("the answer to %s %q ends with %v and %q", verb, body, err, w.Body)
			}
			return w.Code, final
		}
		began := processTime(t)
		code, final := ask(verb, string(body))
		switch {
		case verb == "none" && code != http.StatusNotFound, verb != "none" && code != http.StatusOK && code != http.StatusBadRequest:
			t.Errorf("%s %q has the status %d", verb, body, code)
		case final == nil:
		case strings.Contains(final.Error, "supervisor.log"), strings.Contains(final.Error, "no end"):
			t.Errorf("%s %q: %s", verb, body, final.Error)
		}
		if spent := processTime(t) - began; spent > 10*time.Second {
			t.Errorf("%s with %d bytes took %v", verb, len(body), spent)
		}
		if _, final := ask("ping", "null"); final == nil || final.Error != "" {
			t.Errorf("after %s %q there is no more answer: %v", verb, body, final)
		}
	})
}

// checkOrder looks whether each operation stands after those that it depends on.
func checkOrder(t *testing.T, p *plan.Plan) {
	seen := map[int]bool{}
	for _, op := range p.Ops {
		for _, dep := range op.Deps {
			if !seen[dep] {
				t.Errorf("operation %d depends on %d, which does not stand before it", op.ID, dep)
			}
		}
		seen[op.ID] = true
	}
}

// FuzzAnswer has somebody else listen on the supervisor's socket and send anything: the
// client comes to an end, and takes nothing for an answer that is none.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"event":{"kind":"Container","name":"web","status":"Started","done":true}}` + "\n" + `{"final":{"result":{"id":"x"}}}` + "\n",
		`{"final":{"error":"it failed","exitCode":125}}`, `{"final":{"leaving":true}}`, `{"final":null}{"event":null}`, `{"event":{"time":"x"}}`, "{}\n{}\n", "[", `{"final":{"result":[1]}}`,
	} {
		f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body)))
		f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n" + body))
	}
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
	f.Add([]byte{})
	dir := f.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, socketName)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, answer []byte) {
		go func() {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			defer conn.Close()
			req := make([]byte, 4096)
			if _, err := conn.Read(req); err == nil {
				conn.Write(answer)
			}
		}()
		c := &Client{Project: "shop", Dir: dir}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("no end"))
		defer cancel()
		began := processTime(t)
		events := 0
		var result CreateResult
		err := c.call(ctx, "create", func() ([]byte, error) { return []byte("{}"), nil }, &result, func(apply.Event) { events++ })
		if spent := processTime(t) - began; spent > 10*time.Second {
			t.Errorf("%d bytes took %v", len(answer), spent)
		}
		var remote *RemoteError
		switch {
		case err == nil:
			if !strings.Contains(strings.ToLower(string(answer)), "final") {
				t.Errorf("%q is taken for an answer", answer)
			}
		case ctx.Err() != nil, strings.TrimSpace(err.Error()) == "":
			t.Errorf("%q ends with %q", answer, err)
		case errors.As(err, &remote), errors.Is(err, ErrLost), errors.Is(err, errNotBegun):
		case strings.HasPrefix(err.Error(), "internal error: "), strings.Contains(err.Error(), "json"):
		default:
			t.Errorf("%q ends with %v", answer, err)
		}
		if result != (CreateResult{}) && err != nil {
			t.Errorf("%q has the result %v and the error %v", answer, result, err)
		}
		if events > len(answer) {
			t.Errorf("%d events of %d bytes", events, len(answer))
		}
	})
}

// chunk is a body as HTTP sends one whose length is not known.
func chunk(body string) string {
	const digits = "0123456789abcdef"
	return string(digits[len(body)>>4]) + string(digits[len(body)&15]) + "\r\n" + body + "\r\n0\r\n\r\n"
}
