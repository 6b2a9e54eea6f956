package netns

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

func TestLat(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	for i := range 4 {
		n := fmt.Sprint("n", i)
		l.network(NetworkSpec{Name: n})
		s0 := time.Now()
		if _, err := l.Ensure(ctx, n); err != nil {
			t.Fatal(err)
		}
		s1 := time.Now()
		e := l.attach(EndpointSpec{Networks: on(n), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
		s2 := time.Now()
		l.serveTCP(e, ":80")
		s3 := time.Now()
		got, err := ask("tcp", "127.0.0.1:8080")
		s4 := time.Now()
		got6, err6 := ask("tcp", hostPort(e.Links[0].IPv6, 80))
		s5 := time.Now()
		t.Log("ensure", s1.Sub(s0), "attach", s2.Sub(s1), "v4", s4.Sub(s3), got, err, "v6", s5.Sub(s4), got6, err6)
		s5 = time.Now()
		if err := l.Detach(ctx, e); err != nil {
			t.Fatal(err)
		}
		s6 := time.Now()
		if err := l.Remove(ctx, n); err != nil {
			t.Fatal(err)
		}
		t.Log("detach", s6.Sub(s5), "remove", time.Since(s6))
	}
	_ = net.IPv4zero
}
