package engine

import (
	"reflect"
	"testing"
	"time"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
)

func TestCommitted(t *testing.T) {
	base := image.ContainerConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"A=1", "B=2"}, User: "app", WorkingDir: "/srv",
		Labels: map[string]string{"of": "image"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGINT",
		Healthcheck: &image.Healthcheck{Test: []string{"CMD", "true"}},
	}
	same := committed(&Container{}, base, &healthcheck.Spec{Test: []string{"CMD", "true"}})
	if !reflect.DeepEqual(same, base) {
		t.Errorf("a container without options: %+v", same)
	}
	got := committed(&Container{Spec: Spec{
		Process: Process{Command: []string{"migrate"}, Env: []string{"B=3", "C=4"}, User: "root"},
		Labels:  map[string]string{"of": "container", "com.docker.compose.project": "shop"},
		Expose:  []string{"81/tcp"}, Network: netns.EndpointSpec{Ports: []netns.Port{{ContainerPort: 53, Protocol: "udp"}}},
		StopSignal: "SIGUSR1", Health: &healthcheck.Spec{},
	}}, base, &healthcheck.Spec{Test: []string{"CMD", "probe"}, Interval: time.Second, Retries: 2})
	want := image.ContainerConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"migrate"}, Env: []string{"A=1", "B=3", "C=4"}, User: "root", WorkingDir: "/srv",
		Labels: map[string]string{"of": "container"}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "81/tcp": {}, "53/udp": {}}, StopSignal: "SIGUSR1",
		Healthcheck: &image.Healthcheck{Test: []string{"CMD", "probe"}, Interval: time.Second, Retries: 2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if base.Labels["of"] != "image" || len(base.ExposedPorts) != 1 {
		t.Errorf("the image's own configuration was changed: %+v", base)
	}
	// As in Docker, an entrypoint of one's own leaves nothing of the image's command.
	got = committed(&Container{Spec: Spec{Process: Process{Entrypoint: []string{"sh"}}, Health: &healthcheck.Spec{}}}, base, nil)
	if got.Cmd != nil || got.Entrypoint[0] != "sh" || got.Healthcheck.Test[0] != "NONE" {
		t.Errorf("entrypoint %q, command %q, health check %+v", got.Entrypoint, got.Cmd, got.Healthcheck)
	}
}
