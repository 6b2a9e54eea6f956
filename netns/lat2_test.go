package netns

import (
	"context"
	"fmt"
	"github.com/stack-run/stack/netns/link"
	"testing"
	"time"
)

func TestLat2(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "n"})
	if _, err := l.Ensure(ctx, "n"); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		e, err := l.Attach(ctx, EndpointSpec{ID: fmt.Sprint("e", i), Networks: on("n")})
		if err != nil {
			t.Fatal(err)
		}
		s, _ := link.Open()
		s0 := time.Now()
		switch i % 3 {
		case 0:
			var b link.Batch
			b.DeleteLink(e.Links[0].HostLink)
			s.Do(&b)
		case 1:
			var b link.Batch
			b.SetGroup(e.Links[0].HostLink, 77+1<<31)
			b.DeleteGroup(77 + 1<<31)
			s.Do(&b)
		}
		s1 := time.Now()
		link.Unpin(e.NetNS)
		s2 := time.Now()
		for {
			if _, err := s.Find(e.Links[0].HostLink); err != nil {
				break
			}
		}
		t.Log(i%3, "link", s1.Sub(s0), "unpin", s2.Sub(s1), "gone", time.Since(s2))
		if err := l.Detach(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
}
