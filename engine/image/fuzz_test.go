package image

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// FuzzArchive loads an archive whose JSON files say anything. Digests and sizes that
// only a hash could find out stand in them as words: what is refused is refused for
// more than these. What is loaded is whole, can be saved and is then loaded again.
func FuzzArchive(f *testing.F) {
	layer := rootfs(f, "file=content")
	config := `{"os":"linux","architecture":"amd64","config":{"Cmd":["x"]},"rootfs":{"type":"layers","diff_ids":["DIFF"]},"history":[{"created_by":"x"}]}`
	manifest := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"` + ocispec.MediaTypeImageConfig +
		`","digest":"CONFIG","size":CSIZE},"layers":[{"mediaType":"` + ocispec.MediaTypeImageLayer + `","digest":"DIFF","size":LSIZE}]}`
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"MANIFEST","size":MSIZE,` +
		`"platform":{"os":"linux","architecture":"amd64"},"annotations":{"io.containerd.image.name":"docker.io/library/x:1"}}]}`
	docker := `[{"Config":"config.json","RepoTags":["x:1","y:2"],"Layers":["layer.tar"]}]`
	f.Add(config, manifest, index, docker, "")
	f.Add(config, manifest, "", docker, "")
	f.Add(config, manifest, "", `[{"Config":"blobs/CONFIGPATH","RepoTags":null,"Layers":["blobs/DIFFPATH"]},{"Config":"link","Layers":["link/../layer.tar"]}]`, "")
	f.Add(config, index, `{"manifests":[{"mediaType":"`+ocispec.MediaTypeImageIndex+`","digest":"MANIFEST","size":MSIZE},{"digest":"MANIFEST"}]}`, "", "")
	f.Add(`{"id":"a","parent":"a"}`, "", "", "", `{"x":{"1":"a","2":"b"}}`)
	f.Add(`{"id":"a","os":"linux"}`, "", "", "", `{"x":{"1":"a"}}`)
	f.Add(config, `{"schemaVersion":2,"config":{},"manifests":[]}`, index, "", "")
	f.Add("null", "null", "{}", "null", "null")
	f.Fuzz(func(t *testing.T, config, manifest, index, docker, repositories string) {
		words := func(text string, more ...string) string {
			diff := digest.FromBytes(layer)
			return strings.NewReplacer(append(more, "DIFFPATH", "sha256/"+diff.Encoded(), "DIFF", diff.String(), "LSIZE", fmt.Sprint(len(layer)))...).Replace(text)
		}
		config = words(config)
		of := digest.FromString(config)
		more := []string{"CONFIGPATH", "sha256/" + of.Encoded(), "CONFIG", of.String(), "CSIZE", fmt.Sprint(len(config))}
		manifest = words(manifest, more...)
		more = append(more, "MANIFEST", digest.FromString(manifest).String(), "MSIZE", fmt.Sprint(len(manifest)))
		files := []string{
			"blobs/sha256/" + digest.FromBytes(layer).Encoded(), string(layer), "blobs/sha256/" + of.Encoded(), config,
			"config.json", config, "a/json", config, "layer.tar", string(layer), "a/layer.tar", string(layer), "link", "-> config.json",
		}
		if manifest != config {
			files = append(files, "blobs/sha256/"+digest.FromString(manifest).Encoded(), manifest)
		}
		for _, file := range [][2]string{{"index.json", index}, {"manifest.json", docker}, {"repositories", repositories}} {
			if file[1] != "" {
				files = append(files, file[0], words(file[1], more...))
			}
		}
		s := newStore(t)
		began := cpuTime(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		loaded, err := s.Load(ctx, bytes.NewReader(archiveFiles(t, files...)), LoadOptions{})
		if spent := cpuTime(t) - began; spent > 10*time.Second {
			t.Errorf("it took %v", spent)
		}
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Error("an error without a text")
		}
		clean(t, s)
		if err != nil {
			return
		}
		if len(loaded) == 0 {
			t.Error("nothing is loaded, and that is no error")
		}
		for _, l := range loaded {
			if len(l.Names) == 0 {
				continue
			}
			img, err := s.ResolvePlatform(ctx, l.Names[0], FormatPlatform(l.Image.Platform))
			if err != nil {
				continue // a later one of the archive has the name
			}
			var out bytes.Buffer
			if err := s.Save(ctx, &out, l.Names[0]); err != nil {
				t.Errorf("%s is loaded and cannot be saved: %v", l.Names[0], err)
				continue
			}
			again, err := newStore(t).Load(ctx, &out, LoadOptions{})
			found := false
			for _, a := range again {
				found = found || a.Image.ID == img.ID
			}
			if err != nil || !found {
				t.Errorf("%s is %s, and once it is saved and loaded %+v, %v", l.Names[0], img.ID, again, err)
			}
		}
	})
}

// cpuTime is what this process has used, which does not depend on what else runs on
// the machine.
func cpuTime(t *testing.T) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
