package engine

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/image"
)

func TestImagesDiskCountsSharedLayersOnce(t *testing.T) {
	layer := func(name string, size int64) content.Layer {
		return content.Layer{Digest: digest.FromString(name + ".gz"), DiffID: digest.FromString(name), Size: size}
	}
	base, app, tool, packed := layer("base", 100), layer("app", 10), layer("tool", 20), layer("base", 90)
	packed.Digest = digest.FromString("base.zst")
	unpacked := map[digest.Digest]int64{base.DiffID: 1000, app.DiffID: 100} // tool is not unpacked
	got := imagesDisk([]image.Image{
		{Size: 113, Layers: []content.Layer{base, app}},
		{Size: 124, Layers: []content.Layer{base, tool}},
		{Size: 95, Layers: []content.Layer{packed}},
		{Size: 26, Layers: []content.Layer{app, app}},
	}, unpacked)
	for i, want := range []struct{ size, content, shared int64 }{
		{3 + 1100 + 110, 113, 1210},
		{4 + 1120, 124, 1100},
		{5 + 1090, 95, 1000},
		{6 + 110, 16, 110},
	} {
		if got[i].Size != want.size || got[i].Content != want.content || got[i].Shared != want.shared {
			t.Errorf("image %d: size %d, content %d, shared %d; want %+v", i, got[i].Size, got[i].Content, got[i].Shared, want)
		}
	}
}
