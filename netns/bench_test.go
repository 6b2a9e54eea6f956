package netns

import (
	"context"
	"fmt"
	"testing"

	"github.com/stack-run/stack/netns/internal/kerneltest"
)

func BenchmarkAttach(b *testing.B) {
	kerneltest.NeedRoot(b)
	for _, ports := range []int{0, 1} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			l := newLab(b)
			ctx := context.Background()
			l.network(NetworkSpec{Name: "a"})
			if _, err := l.Ensure(ctx, "a"); err != nil {
				b.Fatal(err)
			}
			var all []*Endpoint
			for b.Loop() {
				spec := EndpointSpec{ID: fmt.Sprint("e", len(all)), Key: fmt.Sprint("p/e/", len(all)), Networks: on("a")}
				for range ports {
					spec.Ports = append(spec.Ports, Port{HostPort: uint16(20000 + len(all)), ContainerPort: 80})
				}
				e, err := l.Attach(ctx, spec)
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, e)
			}
			if err := l.DetachAll(ctx, all); err != nil {
				b.Error(err)
			}
		})
	}
}
