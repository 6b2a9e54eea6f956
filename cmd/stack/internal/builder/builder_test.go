package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
)

func carrying(t *testing.T, text string) (fstest.MapFS, string) {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	z.Write([]byte(text))
	z.Close()
	sum := sha256.Sum256([]byte(text))
	digest := hex.EncodeToString(sum[:])
	return fstest.MapFS{
		"program/README.md":                   {Data: []byte("x")},
		"program/" + Prefix + digest + Suffix: {Data: b.Bytes()},
	}, digest
}

func TestLocate(t *testing.T) {
	data, bin := t.TempDir(), t.TempDir()
	executable := filepath.Join(bin, "stack")
	none := fstest.MapFS{"program/README.md": {Data: []byte("x")}}
	if _, err := locate(t.Context(), "", executable, data, none); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without a builder the error must say what to do: %v", err)
	}
	if _, err := locate(t.Context(), "/nowhere/x", executable, data, none); err == nil || !strings.Contains(err.Error(), Variable) {
		t.Errorf("got %v", err)
	}

	files, digest := carrying(t, "#!/bin/sh\n")
	for range 2 { // the second finds it
		got, err := locate(t.Context(), "", executable, data, files)
		if err != nil || got != filepath.Join(data, "build", "bin", digest, Name) {
			t.Fatal(got, err)
		}
	}
	// What one that was killed while it unpacked has left is as large as the program.
	half := filepath.Join(data, "build", "bin", ".unpacking")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	newer, digest2 := carrying(t, "#!/bin/sh\n# newer\n")
	if _, err := locate(t.Context(), "", executable, data, newer); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(data, "build", "bin"))
	if err != nil || len(entries) != 2 || entries[0].Name() != digest2 && entries[1].Name() != digest2 {
		t.Errorf("old versions must go, and only the lock stay: %v %v", entries, err)
	}

	beside := filepath.Join(bin, Name)
	if err := os.WriteFile(beside, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := locate(t.Context(), "", executable, data, files); err != nil || got != beside {
		t.Error(got, err)
	}
	if got, err := locate(t.Context(), "/bin/true", executable, data, files); err != nil || got != "/bin/true" {
		t.Error(got, err)
	}
}

func TestDamagedProgramIsRefused(t *testing.T) {
	files, digest := carrying(t, "one")
	other, _ := carrying(t, "two")
	for name, f := range other {
		if strings.HasSuffix(name, Suffix) {
			files["program/"+Prefix+digest+Suffix] = f
		}
	}
	data := t.TempDir()
	if got, err := locate(t.Context(), "", "/nowhere/stack", data, files); err == nil {
		t.Errorf("%s was unpacked", got)
	}
	if left, _ := filepath.Glob(filepath.Join(data, "build/bin/*/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// script makes a program of a shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRun(t *testing.T) {
	type message struct{ Text string }
	var out bytes.Buffer
	streams := Streams{In: strings.NewReader("in"), Out: &out, Err: &out}
	ask := message{strings.Repeat("x", 200_000)} // more than a pipe holds

	t.Run("the answer is read and the streams are the user's", func(t *testing.T) {
		var got message
		p := script(t, `read -r q <&3; echo '{"Text":"'$1 ${#q}'"}' >&4; cat`)
		if err := Run(context.Background(), p, "verb", os.Environ(), streams, ask, &got); err != nil {
			t.Fatal(err)
		}
		if got.Text != "verb 200011" || out.String() != "in" {
			t.Errorf("%q %q", got.Text, out.String())
		}
	})
	t.Run("the answer of a failure is read as well", func(t *testing.T) {
		var got message
		err := Run(context.Background(), script(t, `echo '{"Text":"x"}' >&4; exit 7`), "verb", nil, streams, ask, &got)
		var exit ExitError
		if !errors.As(err, &exit) || exit.Code != 7 {
			t.Error(err)
		}
	})
	t.Run("no answer is an error", func(t *testing.T) {
		var got message
		if err := Run(context.Background(), script(t, "exit 0"), "verb", nil, streams, message{}, &got); err == nil {
			t.Error("no error")
		}
	})
	t.Run("the end of the context is the end of the program", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("enough")
		started, begin, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer started.Close()
		go func() {
			started.Read(make([]byte, 1))
			cancel(why)
		}()
		s := Streams{Out: begin}
		var got message
		err = Run(ctx, script(t, `trap 'exit 0' TERM; echo; read -r q <&3; read -r q <&3`), "verb", nil, s, message{}, &got)
		begin.Close()
		if !errors.Is(err, why) {
			t.Error(err)
		}
	})
	t.Run("given up before it listens to signals, it was given up", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("enough")
		started, begin, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer started.Close()
		go func() {
			started.Read(make([]byte, 1))
			cancel(why)
		}()
		var got message
		err = Run(ctx, script(t, "echo; read -r q <&3; read -r q <&3"), "verb", nil, Streams{Out: begin}, message{}, &got)
		begin.Close()
		if !errors.Is(err, why) {
			t.Error(err)
		}
	})
	t.Run("a signal that it got is told, unless it came from the user's side", func(t *testing.T) {
		for signal, code := range map[string]int{"INT": 130, "HUP": 129, "PIPE": 141, "TERM": 0, "KILL": 0} {
			var got message
			err := Run(context.Background(), script(t, "kill -"+signal+" $$"), "verb", nil, streams, message{}, &got)
			var exit ExitError
			if errors.As(err, &exit); exit.Code != code || code == 0 && !strings.Contains(err.Error(), "by signal") {
				t.Errorf("%s: %v", signal, err)
			}
		}
	})
}
